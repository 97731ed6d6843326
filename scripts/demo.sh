#!/usr/bin/env bash
# From a fresh clone to a streaming chat: sets up .venv, builds the embedded demo model into an int8 engine for two
# ranks, serves it under mpirun, asks it something, and leaves it serving.
#
#   bash scripts/demo.sh [--once] [--port N]      --once: stop after the answer, exit 0
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

once=false port=8000
while [ $# -gt 0 ]; do
    case $1 in
        --once) once=true ;;
        --port)
            [ $# -ge 2 ] || { echo "demo: --port wants a number after it." >&2; exit 2; }
            port=$2; shift ;;
        *) echo "demo: unknown option $1; use --once or --port N." >&2; exit 2 ;;
    esac
    shift
done

setup demo
engine=demo-engine

if [ ! -f $engine/engine.json ] || [ -n "$(find llmserve/demo build_configs/demo.yaml -newer $engine/engine.json)" ]; then
    llmserve build demo -o $engine --config build_configs/demo.yaml --force
fi

# Another server there would answer in place of ours.
python - "$port" <<'EOF' || exit 1
import socket, sys
try:
    socket.create_server(("0.0.0.0", int(sys.argv[1]))).close()
except (OSError, ValueError, OverflowError) as e:
    sys.exit(f"demo: port {sys.argv[1]} cannot be used ({e}); choose another with --port N.")
EOF

# A session of its own: Ctrl-C is for this script, which stops the server in order; mpirun would kill its ranks at once.
setsid mpirun -n 2 llmserve run $engine --port "$port" &
server=$!
stop() { kill -USR1 $server 2>/dev/null || true; } # mpirun hands SIGUSR1 to the ranks, which finish and leave
trap stop INT TERM
trap 'kill $server 2>/dev/null || true' EXIT

python scripts/demo_chat.py --port "$port" --server-pid $server

if $once; then
    stop
    wait $server
    trap - EXIT
    echo "demo: done."
    exit 0
fi

cat <<EOF

The demo model is serving. Talk to it:

  curl http://localhost:$port/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "demo", "messages": [{"role": "user", "content": "What is 12 + 7?"}]}'

  from openai import OpenAI
  client = OpenAI(base_url="http://localhost:$port/v1", api_key="none")
  for chunk in client.chat.completions.create(
          model="demo", stream=True, messages=[{"role": "user", "content": "What is in-flight batching?"}]):
      print(chunk.choices[0].delta.content or "", end="", flush=True)

Ctrl-C finishes what runs and stops it.
EOF
code=0
wait $server || code=$?
# A trapped signal interrupts the first wait; the second has the server's own exit code.
if kill -0 $server 2>/dev/null; then code=0; wait $server || code=$?; fi
trap - EXIT
exit $code
