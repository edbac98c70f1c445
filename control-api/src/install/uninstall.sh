#!/bin/sh
# Takes ACE Gateway's agent off this machine: its service, its programs and everything it has stored.
#
#   curl -fsSL https://ace.example.com/api/remote/agent/uninstall.sh | bash -s -- [--dir DIR]
#
# The machine stays in the server's list until an admin removes it there.
set -eu

fail() {
    code=$1
    shift
    printf 'uninstall.sh: %s\n' "$*" >&2
    exit "$code"
}

has() { command -v "$1" >/dev/null 2>&1; }

read_options() {
    dir=''
    while [ $# -gt 0 ]; do
        case $1 in
            --dir)
                [ $# -ge 2 ] || fail 64 "--dir needs a value"
                dir=$2
                shift 2
                ;;
            -h | --help)
                printf 'Usage: uninstall.sh [--dir DIR]; default: ~/.open-ace-agent\n'
                exit 0
                ;;
            *) fail 64 "unknown option $1" ;;
        esac
    done
    if [ -z "$dir" ]; then
        [ -n "${HOME:-}" ] || fail 64 "HOME is not set; say where the agent lives with --dir"
        dir=$HOME/.open-ace-agent
    fi
}

# Nothing is removed that does not look like the agent's folder, whatever --dir says.
check_folder() {
    [ -e "$dir" ] || return 0
    dir=$(CDPATH='' cd -- "$dir" 2>/dev/null && pwd -P) || fail 66 "$dir is no folder"
    case $dir in
        / | "${HOME:-/}") fail 64 "$dir is not the agent's folder" ;;
    esac
    if [ ! -e "$dir/ace-agent" ] && [ ! -e "$dir/config.json" ] && [ ! -e "$dir/machine_id" ]; then
        fail 66 "$dir does not look like the agent's folder: it has neither ace-agent nor config.json"
    fi
}

remove_systemd() {
    has systemctl || return 0
    unit=${OPENACE_SYSTEMD_DIR:-/etc/systemd/system}/open-ace-agent.service
    if [ -e "$unit" ]; then
        [ -w "$(dirname "$unit")" ] || fail 77 "$unit is the system's; run this with sudo and --dir $dir"
        systemctl disable --now open-ace-agent >/dev/null 2>&1 || true
        rm -f "$unit"
        systemctl daemon-reload >/dev/null 2>&1 || true
    fi
    unit=${XDG_CONFIG_HOME:-${HOME:-}/.config}/systemd/user/open-ace-agent.service
    if [ -e "$unit" ]; then
        systemctl --user disable --now open-ace-agent >/dev/null 2>&1 || true
        rm -f "$unit"
        systemctl --user daemon-reload >/dev/null 2>&1 || true
    fi
}

remove_launchd() {
    plist=${HOME:-}/Library/LaunchAgents/com.open-ace.agent.plist
    [ -e "$plist" ] || return 0
    launchctl unload "$plist" >/dev/null 2>&1 || true
    rm -f "$plist"
}

main() {
    read_options "$@"
    check_folder
    was_there=''
    [ ! -e "$dir" ] || was_there=1
    # The agent knows best how it was installed, and ends the one that runs.
    if [ -x "$dir/ace-agent" ]; then
        "$dir/ace-agent" uninstall --dir "$dir" </dev/null >/dev/null 2>&1 || true
    fi
    case $(uname -s) in
        Darwin) remove_launchd ;;
        *) remove_systemd ;;
    esac
    if [ -n "$was_there" ]; then
        rm -rf "$dir"
        printf 'Removed %s.\n' "$dir"
    else
        printf 'There is no agent in %s.\n' "$dir"
    fi
    printf "The machine stays in the server's list until an admin removes it there.\n"
}

main "$@"
