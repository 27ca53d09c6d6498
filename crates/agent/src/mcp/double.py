"""A server over stdio that does what its tools are told, and what the file beside it says. Its lists have two pages."""
import json, os, sys, time

state = sys.argv[1]


def read(name, otherwise):
    try:
        with open(os.path.join(state, name)) as file:
            return file.read()
    except FileNotFoundError:
        return otherwise


def say(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def note(text):
    with open(os.path.join(state, "log"), "a") as file:
        file.write(text + "\n")


note("begin " + os.environ.get("GREETING", ""))
print("noise on stderr", file=sys.stderr, flush=True)
print("this is no message", flush=True)
if read("dies", ""):
    print("cannot go on", file=sys.stderr, flush=True)
    sys.exit(3)
schema = {"type": "object", "properties": {"what": {"type": "string"}}}
for line in sys.stdin:
    asked = json.loads(line)
    method, id, params = asked.get("method"), asked.get("id"), asked.get("params", {})
    if method == "initialize":
        say({"id": id, "result": {"protocolVersion": read("version", "2025-03-26"), "capabilities": {}, "serverInfo": {}}})
    elif method == "notifications/initialized":
        say({"id": 900, "method": "sampling/createMessage", "params": {}})
    elif method == "notifications/cancelled":
        note("cancelled " + str(params["requestId"]))
    elif method is None:
        note("told " + str(asked["error"]["code"]))
    elif method == "tools/list":
        note("list")
        names = read("tools", "echo slow die").split()
        half = len(names) // 2
        page = names[half:] if params.get("cursor") == "next" else names[:half]
        says = read("says", "Says what it is told")
        tools = [{"name": name, "description": says + " in " + name, "inputSchema": schema} for name in page]
        result = {"tools": tools}
        if params.get("cursor") is None:
            result["nextCursor"] = "next"
        say({"id": id, "result": result})
    elif method == "tools/call":
        name, what = params["name"], params["arguments"].get("what", "")
        if name == "die":
            print("dying now", file=sys.stderr, flush=True)
            sys.exit(4)
        if name == "slow":
            for step in range(4):
                time.sleep(0.9)
                say({"method": "notifications/progress", "params": {"progressToken": params["_meta"]["progressToken"]}})
        if name == "hang":
            continue
        if name == "announce":
            say({"method": "notifications/tools/list_changed"})
        content = [{"type": "text", "text": name + " says " + what}, {"type": "image", "data": "", "mimeType": "image/png"}]
        say({"id": id, "result": {"content": content, "isError": name == "fail"}})
