#!/usr/bin/env bash
# Set up (idempotent) and start a genuine OpenStack Keystone on loopback.
#   up.sh [start]   set up if needed, start, print env (KEY=VALUE lines)
#   up.sh stop      stop by pid file
#   up.sh env       print env of the running instance
#   up.sh wipe      stop and remove the state directory (keeps the venv)
# Knobs (env): KS_HOME, KS_STATE, KS_PORT, KS_TTL (token lifetime, s), KS_REGION,
#   KS_VBS_URL (catalog URL template for VBS), KS_PIN (pip constraint file), KS_SERVER=gunicorn|werkzeug
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KS_HOME=${KS_HOME:-$HOME/.cache/keystone-fixture}   # virtual environment, state
KS_STATE=${KS_STATE:-$KS_HOME/state}
KS_TTL=${KS_TTL:-3600}
KS_REGION=${KS_REGION:-eu-de}
KS_VBS_URL=${KS_VBS_URL:-http://127.0.0.1:28776/v2/\$(project_id)s}
KS_PYTHON=${KS_PYTHON:-python3.11}
KS_PIN=${KS_PIN-$HERE/constraints.txt}
KS_VERSION=${KS_VERSION:-30.0.0}
KS_SERVER=${KS_SERVER:-gunicorn}
VENV=$KS_HOME/venv
PIDFILE=$KS_STATE/keystone.pid

stop() {
  [ -f "$PIDFILE" ] || return 0
  local p; p=$(cat "$PIDFILE")
  # only ever signal a process that is ours (a stale pid may have been reused)
  if tr '\0' ' ' < "/proc/$p/cmdline" 2>/dev/null | grep -qF "$VENV/bin/"; then
    kill -TERM "$p"
    for _ in $(seq 50); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
    kill -0 "$p" 2>/dev/null && kill -KILL "$p" || true
  fi
  rm -f "$PIDFILE"
}

free_port() {  # prefer $1, else any free port
  "$VENV/bin/python" - "$1" <<'PY'
import socket, sys
for p in (int(sys.argv[1]), 0):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind(("127.0.0.1", p)); print(s.getsockname()[1]); break
    except OSError:
        continue
PY
}

case "${1:-start}" in
  stop) stop; exit 0 ;;
  env)  cat "$KS_STATE/env"; exit 0 ;;
  wipe) stop; rm -rf "$KS_STATE"; exit 0 ;;
  start) ;;
  *) echo "usage: $0 [start|stop|env|wipe]" >&2; exit 2 ;;
esac

if [ ! -x "$VENV/bin/keystone-manage" ]; then
  "$KS_PYTHON" -m venv "$VENV"
  "$VENV/bin/pip" install -q --no-input ${KS_PIN:+-c "$KS_PIN"} "keystone==$KS_VERSION" gunicorn
fi
stop
rm -f "$KS_STATE/gunicorn.log" "$KS_STATE/stdout.log"
PORT=$(free_port "${KS_PORT:-35357}")
URL=http://127.0.0.1:$PORT/v3
mkdir -p "$KS_STATE"; chmod 700 "$KS_STATE"

# --- config: rewritten on every start, so TTL/port may change between starts
cat > "$KS_STATE/keystone.conf" <<CONF
[DEFAULT]
debug = false
use_stderr = false
log_file = $KS_STATE/keystone.log
public_endpoint = http://127.0.0.1:$PORT/
[database]
connection = sqlite:///$KS_STATE/keystone.db
[token]
provider = fernet
expiration = $KS_TTL
[fernet_tokens]
key_repository = $KS_STATE/fernet-keys
[credential]
key_repository = $KS_STATE/credential-keys
[identity]
# cheapest bcrypt cost: test credentials only
password_hash_rounds = 4
[cache]
# in-process cache: validation 0.7 s -> 0.01 s. Safe only because there is ONE worker process
# (revocation invalidates the same process's cache).
enabled = true
backend = oslo_cache.dict
[oslo_messaging_notifications]
driver = noop
CONF
export OS_KEYSTONE_CONFIG_FILES=$KS_STATE/keystone.conf
export PYTHONWARNINGS=ignore
KM="$VENV/bin/keystone-manage --config-file $KS_STATE/keystone.conf"
ME=$(id -un); GRP=$(id -gn)

if [ ! -f "$KS_STATE/password" ]; then
  ( umask 077; "$VENV/bin/python" -c 'import secrets;print(secrets.token_urlsafe(18),end="")' > "$KS_STATE/password.new" )
  $KM db_sync
  $KM fernet_setup     --keystone-user "$ME" --keystone-group "$GRP"
  $KM credential_setup --keystone-user "$ME" --keystone-group "$GRP"
  $KM bootstrap --bootstrap-password="$(cat "$KS_STATE/password.new")" \
      --bootstrap-username admin --bootstrap-project-name admin --bootstrap-role-name admin \
      --bootstrap-service-name keystone --bootstrap-region-id "$KS_REGION" \
      --bootstrap-admin-url "$URL" --bootstrap-public-url "$URL" --bootstrap-internal-url "$URL"
  mv "$KS_STATE/password.new" "$KS_STATE/password"
fi

case "$KS_SERVER" in
  gunicorn)
    setsid nohup "$VENV/bin/gunicorn" --bind "127.0.0.1:$PORT" --worker-class gthread --workers 1 --threads 4 \
      --keep-alive 30 --no-control-socket --access-logfile "$KS_STATE/access.log" --error-logfile "$KS_STATE/gunicorn.log" \
      --chdir "$HERE" kswsgi:application >"$KS_STATE/stdout.log" 2>&1 </dev/null &
    ;;
  werkzeug)
    setsid nohup "$VENV/bin/python" -c "
from werkzeug.serving import run_simple, WSGIRequestHandler
WSGIRequestHandler.protocol_version = 'HTTP/1.1'
sys_path = __import__('sys').path.insert(0, '$HERE')
from kswsgi import application
run_simple('127.0.0.1', $PORT, application, threaded=True)" >"$KS_STATE/stdout.log" 2>&1 </dev/null &
    ;;
esac
echo $! > "$PIDFILE"
die() { echo "keystone did not start:" >&2; tail -n 30 "$KS_STATE/stdout.log" >&2; stop; exit 1; }
T0=$SECONDS
until curl -fsS -m 5 -o /dev/null "$URL" 2>/dev/null; do
  kill -0 "$(cat "$PIDFILE")" 2>/dev/null || die
  # gunicorn's master survives a crash-looping worker: look for that too
  grep -q 'exited with code' "$KS_STATE/gunicorn.log" 2>/dev/null && die
  [ $((SECONDS - T0)) -lt 90 ] || die
  sleep 0.2
done

# --- objects a gateway test needs: project, user, role, service+endpoint, application credential.
# Skipped when nothing they depend on changed (so a restart with a tiny KS_TTL is quick and safe).
STAMP="$URL $KS_VBS_URL $KS_REGION"
if [ "$(cat "$KS_STATE/seeded" 2>/dev/null)" != "$STAMP" ]; then
  KS_URL=$URL KS_PW=$(cat "$KS_STATE/password") KS_REGION=$KS_REGION KS_VBS_URL=$KS_VBS_URL KS_STATE=$KS_STATE \
    "$VENV/bin/python" "$HERE/seed.py" > "$KS_STATE/env.seed.new" || { echo "seeding failed" >&2; stop; exit 1; }
  mv "$KS_STATE/env.seed.new" "$KS_STATE/env.seed"
  echo "$STAMP" > "$KS_STATE/seeded"
fi
{ cat "$KS_STATE/env.seed"; echo "KS_PID=$(cat "$PIDFILE")"; echo "KS_PIDFILE=$PIDFILE"; echo "KS_CONF=$KS_STATE/keystone.conf"; } > "$KS_STATE/env"
chmod 600 "$KS_STATE/env" "$KS_STATE/env.seed"
cat "$KS_STATE/env"
