#!/bin/sh
# Runs workerd, writes down its process id, and ends it when the process that started it is gone,
# however that came about. WORKERD_BINARY is the real one, WORKERD_PID_FILE the file to write to.
parent=$PPID
self=$$
echo "$self" >> "$WORKERD_PID_FILE"
(
  while kill -0 "$parent" && kill -0 "$self"; do sleep 1; done
  kill -KILL "$self"
) </dev/null >/dev/null 2>&1 3>&- &
exec "$WORKERD_BINARY" "$@"
