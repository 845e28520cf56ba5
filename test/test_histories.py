"""Random histories end as the model of the DLM says (test/histories): by the engine's interface, and at the mount."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "histories"))

import campaign
import model

OPERATIONS = {"local": 100000, "dlm": 8000}     # by the interface; a release takes half a second on dlm
AT_THE_MOUNT = {"local": 4000, "dlm": 1200}
PIECES = 4


@pytest.fixture
def program(helpers):
    path = helpers / "histories" / "engine-driver"
    assert path.exists(), f"no {path}: build it"
    return path


def check(arena, seed, ops):
    """A failure shows the history."""
    try:
        tally = campaign.run(arena, seed, ops)
        assert tally.ops >= ops
    except campaign.Failure as failure:
        pytest.fail(str(failure), pytrace=False)
    finally:
        arena.close()


@pytest.mark.parametrize("piece", range(PIECES))
def test_engine_does_what_the_model_says(program, engine, piece):
    """On dlm, the local engine is made to do the same, and both say the same."""
    arena = campaign.EngineArena(program, engine, twin="local" if engine == "dlm" else None)
    check(arena, 1 + 1000 * piece, OPERATIONS[engine] // PIECES)


@pytest.mark.parametrize("piece", range(2))
def test_mount_does_what_the_model_says(mount, engine, piece):
    check(campaign.MountArena(mount), 1 + 1000 * piece, AT_THE_MOUNT[engine] // 2)


def test_failing_history_is_made_short_and_can_be_played_again(program, tmp_path, monkeypatch):
    """A model in which a PR lock shares its resource with nobody."""
    wrong = [{model.NL} if mode == model.PR else shares for mode, shares in enumerate(model.SHARES)]
    monkeypatch.setattr(model, "SHARES", wrong)
    with pytest.raises(campaign.Failure) as failed:
        campaign.run(campaign.EngineArena(program, "local"), 1, 5000)
    assert len(failed.value.ops) <= 4
    path = tmp_path / "history"
    path.write_text(f"# kept\n{failed.value.text}", encoding="ascii")
    arena = campaign.EngineArena(program, "local")
    with pytest.raises(campaign.Failure):
        campaign.replay(arena, path)
    monkeypatch.undo()
    assert campaign.replay(arena, path).ops > 0
    arena.close()


def test_the_program_plays_and_replays(program, tmp_path):
    command = [Path(campaign.__file__).parent / "run", "--build", program.parents[2]]
    done = subprocess.run([*command, "--seed", "7", "--ops", "1"], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0 and "operations in 1 histories, the last of seed 7," in done.stdout, done
    path = tmp_path / "history"
    path.write_text("lock 101 alpha one EX -\nlock 201 alpha one PR valblk &     # waits\nkill 1\n", encoding="ascii")
    done = subprocess.run([*command, "--replay", path], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.returncode == 0 and done.stdout.startswith("3 operations in 1 histories"), done
