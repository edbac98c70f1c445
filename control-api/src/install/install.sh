#!/bin/sh
# Installs ACE Gateway's agent on this machine, or brings it up to date:
#
#   curl -fsSL https://ace.example.com/api/remote/agent/install.sh | \
#     bash -s -- --server https://ace.example.com --token TOKEN
#
# Nothing is asked, and nothing of a failed run stays. The token is spent by the last step before the service starts, so
# that the same command can be run again after whatever went wrong before.
set -eu
umask 077

usage() {
    cat <<'END'
Usage: install.sh --server URL [--token TOKEN] [options]

  --server URL        the server's address [env: OPENACE_SERVER_URL]
  --token TOKEN       the registration token [env: OPENACE_REGISTRATION_TOKEN]; without one, an agent that is registered
                      already is brought up to date and stays who it is
  --name NAME         what the machine is called; default: its host name
  --install-cli TOOL  the AI tool to install; default: qwen-code-cli, where npm is there; `none` for none
  --dir DIR           where the agent lives; default: ~/.open-ace-agent
  --ca-file FILE      certificates to trust besides the system's, in PEM
  --pin SHA256        the only certificate to trust, by its SHA-256 fingerprint, for the agent's own connections
  --allow-insecure-private
                      lets the agent speak plain http to a private address; whoever is on the way reads everything
  --no-service        do not install a service; `ace-agent run` then starts it
END
}

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# fail CODE TEXT...: the exit code is one of sysexits.h.
fail() {
    code=$1
    shift
    printf 'install.sh: %s\n' "$*" >&2
    if [ "${spending:-no}" = no ] && [ -n "${token:-}" ]; then
        printf 'The registration token is not spent: the same command can be run again.\n' >&2
    fi
    exit "$code"
}

has() { command -v "$1" >/dev/null 2>&1; }

# The value of an option; `--name` at the very end has none.
value() {
    [ "$2" -ge 2 ] || fail 64 "$1 needs a value (--help tells more)"
}

read_options() {
    server=${OPENACE_SERVER_URL:-}
    token=${OPENACE_REGISTRATION_TOKEN:-}
    # Only the one command that needs it is given it.
    unset OPENACE_REGISTRATION_TOKEN
    name='' dir='' ca_file='' pin='' cli='' insecure=no service=yes
    while [ $# -gt 0 ]; do
        case $1 in
            --server) value "$1" $#; server=$2; shift 2 ;;
            --token) value "$1" $#; token=$2; shift 2 ;;
            --name) value "$1" $#; name=$2; shift 2 ;;
            --install-cli) value "$1" $#; cli=$2; shift 2 ;;
            --dir) value "$1" $#; dir=$2; shift 2 ;;
            --ca-file) value "$1" $#; ca_file=$2; shift 2 ;;
            --pin) value "$1" $#; pin=$2; shift 2 ;;
            --allow-insecure-private) insecure=yes; shift ;;
            --no-service) service=no; shift ;;
            -h | --help) usage; exit 0 ;;
            *) usage >&2; fail 64 "unknown option $1" ;;
        esac
    done
    case $server in
        http://?* | https://?*) server=${server%/} ;;
        '') usage >&2; fail 64 "--server is missing" ;;
        *) fail 64 "--server must begin with https:// or http://, found $server" ;;
    esac
    if [ -z "$dir" ]; then
        [ -n "${HOME:-}" ] || fail 64 "HOME is not set; say where the agent is to live with --dir"
        dir=$HOME/.open-ace-agent
    fi
    case $dir in
        /*) ;;
        *) dir=$(pwd)/$dir ;;
    esac
    if [ -n "$ca_file" ] && [ ! -r "$ca_file" ]; then
        fail 66 "--ca-file: $ca_file cannot be read"
    fi
    if [ -z "$token" ] && [ ! -e "$dir/config.json" ]; then
        fail 64 "--token is missing: an admin makes one (machines, generate registration token)"
    fi
}

# download URL FILE
download() {
    if has curl; then
        if [ -n "$ca_file" ]; then
            curl -fsSL --connect-timeout 20 --retry 2 --cacert "$ca_file" -o "$2" "$1"
        else
            curl -fsSL --connect-timeout 20 --retry 2 -o "$2" "$1"
        fi
    elif has wget; then
        if [ -n "$ca_file" ]; then
            wget -q --timeout=20 --tries=3 --ca-certificate="$ca_file" -O "$2" "$1"
        else
            wget -q --timeout=20 --tries=3 -O "$2" "$1"
        fi
    else
        fail 69 "curl or wget is needed to download the agent"
    fi
}

# checksum FILE
checksum() {
    if has sha256sum; then
        sha256sum "$1" | cut -d ' ' -f 1
    elif has shasum; then
        shasum -a 256 "$1" | cut -d ' ' -f 1
    elif has openssl; then
        openssl dgst -sha256 "$1" | sed 's/^.*= *//'
    else
        fail 69 "sha256sum, shasum or openssl is needed to check the download"
    fi
}

# Sets `targets` to what may run here, the best first.
find_targets() {
    system=$(uname -s)
    machine=$(uname -m)
    case $machine in
        x86_64 | amd64) machine=x86_64 ;;
        aarch64 | arm64) machine=aarch64 ;;
    esac
    case $system in
        Linux)
            targets="$machine-unknown-linux-gnu $machine-unknown-linux-musl"
            # Where there is no glibc, what is built against it does not start.
            if has ldd && ldd --version 2>&1 | grep -qi musl; then
                targets="$machine-unknown-linux-musl"
            fi
            ;;
        Darwin) targets="$machine-apple-darwin" ;;
        *) fail 69 "there is no agent for $system; on Windows use install.ps1" ;;
    esac
}

# Downloads, checks and tries the agent, and leaves it as $work/ace-agent.
fetch_agent() {
    files=$server/api/remote/agent/files
    download "$files/SHA256SUMS" "$work/SHA256SUMS" ||
        fail 69 "$files/SHA256SUMS cannot be downloaded; is --server right?"
    held=$(sed 's/^[^ ]*  *//' "$work/SHA256SUMS" | tr '\n' ' ')
    for target in $targets; do
        expected=$(sed -n "s/^\([0-9a-f]\{64\}\)  ace-agent-$target\$/\1/p" "$work/SHA256SUMS")
        [ -n "$expected" ] || continue
        say "Downloading the agent for $target"
        download "$files/ace-agent-$target" "$work/ace-agent" ||
            fail 69 "$files/ace-agent-$target cannot be downloaded"
        found=$(checksum "$work/ace-agent")
        if [ "$found" != "$expected" ]; then
            fail 65 "what was downloaded is damaged: its SHA-256 is $found, it should be $expected"
        fi
        chmod 700 "$work/ace-agent"
        if version=$("$work/ace-agent" --version 2>"$work/error"); then
            say "It is $version"
            return
        fi
        warn "the agent for $target does not run here: $(head -n 1 "$work/error")"
    done
    fail 69 "the server holds no agent that runs on this machine ($targets); it holds: ${held:-none}"
}

# Runs a command of the new agent; the script itself may be its standard input.
agent() {
    if [ "$insecure" = yes ]; then
        OPENACE_ALLOW_INSECURE_PRIVATE_WS=1
        export OPENACE_ALLOW_INSECURE_PRIVATE_WS
    fi
    "$@" </dev/null
}

install_cli() {
    [ "$cli" != none ] || return 0
    if [ -z "$cli" ]; then
        cli=qwen-code-cli
        if ! has npm; then
            warn "npm is not there, so no AI tool is installed; later: ace-agent install-cli $cli"
            return 0
        fi
        agent "$work/ace-agent" install-cli "$cli" --dir "$dir" ||
            warn "$cli could not be installed; later: ace-agent install-cli $cli"
        return 0
    fi
    agent "$work/ace-agent" install-cli "$cli" --dir "$dir" || fail 69 "$cli could not be installed"
}

register() {
    [ -n "$token" ] || return 0
    set -- --server "$server" --dir "$dir"
    [ -z "$name" ] || set -- "$@" --name "$name"
    # The settings keep them, so that an upgrade and the service know them too.
    [ -z "$ca_file" ] || set -- "$@" --ca-file "$ca_file"
    [ -z "$pin" ] || set -- "$@" --pin "$pin"
    spending=yes
    OPENACE_REGISTRATION_TOKEN=$token
    export OPENACE_REGISTRATION_TOKEN
    agent "$work/ace-agent" register "$@" ||
        fail 69 "the machine was not registered; the agent's message above says why, and whether the token is spent" \
            "(to bring a registered agent up to date, leave --token out)"
    unset OPENACE_REGISTRATION_TOKEN
}

# A running agent holds its directory, and its program cannot be replaced everywhere.
stop_agent() {
    [ "$service" = yes ] && [ -e "$dir/config.json" ] || return 0
    stopped=yes
    agent "$work/ace-agent" stop --dir "$dir" || fail 71 "the agent that runs in $dir cannot be stopped"
}

# Whatever the end: an agent that was stopped on the way and not replaced goes on.
clean_up() {
    if [ "${stopped:-no}" = yes ]; then
        agent "$work/ace-agent" start --dir "$dir" || warn "the agent of before was stopped; $dir/ace-agent start starts it"
    fi
    rm -rf "$work"
    [ "$made" = no ] || rmdir "$dir" 2>/dev/null || true
}

main() {
    read_options "$@"
    find_targets
    made=no
    [ -d "$dir" ] || made=yes
    mkdir -p "$dir" || fail 73 "$dir cannot be made"
    # In the same folder, so that it takes the old one's place in one step.
    work=$(mktemp -d "$dir/.install.XXXXXX") || fail 73 "$dir cannot be written to"
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP
    fetch_agent
    install_cli
    stop_agent
    register
    mv -f "$work/ace-agent" "$dir/ace-agent" || fail 73 "$dir/ace-agent cannot be replaced"
    if [ "$service" = yes ]; then
        set -- --dir "$dir"
        [ "$insecure" = no ] || set -- "$@" --allow-insecure-private
        stopped=no
        agent "$dir/ace-agent" install-service "$@" ||
            fail 71 "the machine is registered, but the service was not installed; $dir/ace-agent run --dir $dir starts it by hand"
    fi
    say "Done. The agent lives in $dir; $dir/ace-agent status --dir $dir tells how it is."
}

# The last line, so that a script that was cut on its way here does nothing.
main "$@"
