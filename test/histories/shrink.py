"""Makes a failing history short: delta debugging."""


def shrink(history, fails):
    """A part of @history for which fails() is true still, and of which no single operation can be left out."""
    pieces = 2
    while len(history) > 1:
        size = -(-len(history) // pieces)
        for start in range(0, len(history), size):
            rest = history[:start] + history[start + size:]
            if fails(rest):
                history = rest
                pieces = max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(2 * pieces, len(history))
    return history
