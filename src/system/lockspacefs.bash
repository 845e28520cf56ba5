# bash completion for lockspacefs(8) and its commands                            -*- shell-script -*-
#
# Options come from --help, so that they are those of the program. In a list after -o each item is completed by
# itself.

_lockspacefs_mountpoints() {
    local target
    while read -r target; do
        printf '%b\n' "$target"
    done < <(findmnt --raw --noheadings --output TARGET --types fuse.lockspacefs 2>/dev/null)
}

# The commands stand in the lines of the usage.
_lockspacefs_commands() {
    "$1" --help 2>/dev/null | sed -n 's/^ \{1,\}lockspacefs \([a-z]\{1,\}\) .*/\1/p'
}

# The mount options, with "=" where a value follows.
_lockspacefs_mount_options() {
    "$1" --help 2>/dev/null | sed -n '/^  -o /,/^  and /{
        s/^    \([a-z_]*=\)[^ ]*, \([a-z_]*=\).*/\1\n\2/p; t
        s/^    \([a-z_]\{1,\}=\{0,1\}\).*/\1/p
    }'
}

_lockspacefs_option_list() {
    local before= item=$cur name values IFS=$'\n'
    if [[ $cur == *,* ]]; then
        before=${cur%,*},
        item=${cur##*,}
    fi
    name=${item%%=*}
    case $item in
        engine=*) values=$'dlm\nlocal' ;;
        uid=*) values=$(compgen -u) ;;
        gid=*) values=$(compgen -g) ;;
        mode=*) values=$'0755\n0775\n0777\n1777' ;;
        *=*) return ;;
        *) values=$(_lockspacefs_mount_options "$1") ;;
    esac
    if [[ $item == *=* ]]; then
        COMPREPLY=($(compgen -P "$before$name=" -W '$values' -- "${item#*=}"))
    else
        COMPREPLY=($(compgen -P "$before" -W '$values' -- "$item"))
        [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *= ]] && compopt -o nospace
    fi
    # readline replaces what follows the last "=" only
    [[ $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*=}"}"}")
}

_lockspacefs_mount() {
    case $prev in
        -o)
            _lockspacefs_option_list "$1"
            return
            ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '-f -d -o -h --help -V --version' -- "$cur"))
        return
    fi
    _filedir -d
    ((cword == 1)) && COMPREPLY+=($(compgen -W '$(_lockspacefs_commands "$1")' -- "$cur"))
}

_lockspacefs_run() {
    local i has_lockfile=
    # the command has completions of its own
    for ((i = 2; i <= COMP_CWORD; i++)); do
        if [[ $has_lockfile && ${COMP_WORDS[i]} != -- ]]; then
            _command_offset $i
            return
        fi
        [[ ${COMP_WORDS[i]} != -* && ${COMP_WORDS[i]} != = && ${COMP_WORDS[i - 1]} != = ]] && has_lockfile=1
        [[ ! $has_lockfile && ${COMP_WORDS[i]} == -@([mwEkvy]|-mode|-wait|-conflict-exit-code|-kill-after|-value|-yield) &&
            ${COMP_WORDS[i + 1]-} != = ]] && ((i++))
    done
    case $prev in
        -m | --mode)
            COMPREPLY=($(compgen -W 'nl cr cw pr pw ex' -- "$cur"))
            return
            ;;
        -y | --yield)
            _signals
            return
            ;;
        -[wEkv] | --wait | --conflict-exit-code | --kill-after | --value)
            return
            ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '$(_parse_help "$1" "run --help")' -- "$cur"))
        [[ ${COMPREPLY-} == *= ]] && compopt -o nospace
        return
    fi
    _filedir
}

_lockspacefs_status() {
    case $prev in
        -w | --wait)
            return
            ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '$(_parse_help "$1" "status --help")' -- "$cur"))
        [[ ${COMPREPLY-} == *= ]] && compopt -o nospace
    else
        local IFS=$'\n'
        COMPREPLY=($(compgen -W '$(_lockspacefs_mountpoints)' -- "$cur"))
    fi
}

_lockspacefs() {
    local cur prev words cword split
    _init_completion -s || return
    case $cword,${words[1]-} in
        1,*) _lockspacefs_mount "$1" ;;
        *,run) _lockspacefs_run "$1" ;;
        *,status) _lockspacefs_status "$1" ;;
        *) _lockspacefs_mount "$1" ;;
    esac
} &&
    complete -F _lockspacefs lockspacefs
