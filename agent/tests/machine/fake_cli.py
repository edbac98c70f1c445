#!/usr/bin/env python3
"""A CLI that speaks stream-json and does what it is told to, good or bad."""
import json, os, signal, subprocess, sys, time

def say(o):
    sys.stdout.write(json.dumps(o) + "\n")
    sys.stdout.flush()

def text(t):
    say({"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": t}]}})

def result(t, error=False):
    say({"type": "result", "subtype": "success", "is_error": error, "result": t, "session_id": sid})

args = sys.argv[1:]
arg = lambda name: args[args.index(name) + 1] if name in args else None
sid = arg("--resume") or arg("--session-id") or "conversation-1"
turns = 0
if os.path.exists("exits-at-once"):
    sys.stderr.write("no licence for this machine\n")
    sys.exit(7)
if os.path.exists("ignores-term"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
asked = None
for line in sys.stdin:
    o = json.loads(line)
    if o["type"] == "control_request":
        if o["request"]["subtype"] == "interrupt":
            result("interrupted", True)
        say({"type": "control_response", "response": {"subtype": "success", "request_id": o["request_id"], "response": {}}})
        continue
    if o["type"] == "control_response":
        text("allowed" if o["response"]["response"]["behavior"] == "allow" else "denied: " + o["response"]["response"]["message"])
        result("asked")
        continue
    turns += 1
    said = o["message"]["content"]
    say({"type": "system", "subtype": "init", "session_id": sid})
    if said == "environment":
        text(json.dumps(dict(os.environ)))
    elif said == "arguments":
        text(" ".join(args))
    elif said == "ask":
        say({"type": "control_request", "request_id": "q1", "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}}})
        continue
    elif said == "wait":
        continue
    elif said.startswith("wait for "):
        while not os.path.exists(said.split()[2]):
            time.sleep(0.02)
    elif said == "die":
        sys.stderr.write("out of memory\n")
        sys.exit(3)
    elif said == "leave":
        result("bye")
        sys.exit(0)
    elif said == "daemons":
        code = "import os,time\nos.setsid()\nif os.fork(): os._exit(0)\nopen('daemon.pid','a').write(str(os.getpid())+'\\n')\ntime.sleep(600)"
        for _ in range(3):
            subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
        subprocess.Popen(["sleep", "600"])
        while not (os.path.exists("daemon.pid") and open("daemon.pid").read().count("\n") == 3):
            time.sleep(0.02)
    elif said == "garbage":
        sys.stdout.buffer.write(b"\x1b[31mnot json\x1b[0m \xff\xfe\n{\"type\": \n[1,2]\n")
        sys.stdout.flush()
    elif said.startswith("huge "):
        for _ in range(int(said.split()[1])):
            sys.stdout.write("x" * 1000000)
        sys.stdout.write("\n")
    elif said.startswith("flood "):
        for i in range(int(said.split()[1])):
            text("line %d" % i)
    else:
        text("turn %d: %s" % (turns, said))
    result("done")
