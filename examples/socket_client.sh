#!/bin/sh
# A training loop in a shell: what a client of the daemon's socket does, in any language (docs/protocol.md).
#   sh examples/socket_client.sh STATE_DIRECTORY [STEPS]      (`autotuner config show` names the state directory)
# Needs socat, or Perl with IO::Socket::UNIX, which macOS and every Debian have. STEP_COMMAND is what one step does.
set -eu
socket=$1/autotuner.sock
steps=${2:-20}
step_command=${STEP_COMMAND:-sleep 0.5}
[ -S "$socket" ] || { echo "$socket is not there: start the daemon, autotuner daemon" >&2; exit 1; }

relay='
    my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "cannot connect to $ARGV[0]: $!\n";
    my $reader = fork // die "fork: $!\n";
    if ($reader == 0) { while (sysread $s, my $b, 65536) { syswrite STDOUT, $b } exit }
    while (sysread STDIN, my $b, 65536) { syswrite $s, $b }
    $s->shutdown(1); waitpid $reader, 0;
'
connect() {
    if command -v socat >/dev/null; then exec socat - "UNIX-CONNECT:$socket"; fi
    exec perl -MIO::Socket::UNIX -e "$relay" "$socket"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkfifo "$work/to" "$work/from"
connect <"$work/to" >"$work/from" &
exec 3>"$work/to" 4<"$work/from"

say() { printf '%s\n' "$1" >&3; }
number() { printf '%s\n' "$1" | sed -n "s/.*\"$2\": *\([0-9.]*\).*/\1/p"; }

say '{"type": "declare", "name": "shell", "knobs": {"micro_batch": {"start": 8, "values": [2, 4, 8]}}}'
read -r answer <&4
echo "$answer"
case $answer in *'"declared"'*) ;; *) exit 1 ;; esac

# Lines from the daemon arrive at any time: the newest change waits in a file for the next safe point.
while read -r line; do
    echo "$line"
    case $line in
    *'"knobs"'*) echo "$(number "$line" revision) $(number "$line" micro_batch)" >"$work/new" && mv "$work/new" "$work/change" ;;
    *'"ended"'*) break ;;
    esac
done <&4 &
listener=$!

outcome=finished
trap 'outcome=interrupted' INT TERM
micro_batch=8 step=0 images=0
while [ "$step" -lt "$steps" ] && [ "$outcome" = finished ]; do
    if [ -f "$work/change" ]; then # the safe point, between two steps
        mv "$work/change" "$work/taken"
        read -r revision micro_batch <"$work/taken"
        say "{\"type\": \"acknowledge\", \"revision\": $revision, \"step\": $((step + 1))}"
    fi
    $step_command || true
    step=$((step + 1)) images=$((images + micro_batch))
    loss=$(awk "BEGIN { print 1 / (1 + $images / 1000) }")
    say "{\"type\": \"report\", \"step\": $step, \"loss\": $loss, \"images\": $images}"
done
say "{\"type\": \"end\", \"outcome\": \"$outcome\"}"
wait "$listener"
