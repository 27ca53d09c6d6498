"""Attempts from inside a cell: one line each, `name errno-or-ok`."""
import ctypes, errno, os, socket, sys

libc = ctypes.CDLL(None, use_errno=True)


def call(name, number, *args):
    """In a child: where an attempt succeeds, the next one is made as if it had not."""
    def child():
        me = os.getpid()
        ctypes.set_errno(0)
        result = libc.syscall(number, *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
        # A second process came of it, and only the first is to speak.
        return (ctypes.get_errno() if result < 0 else 0) if os.getpid() == me else None
    apart(name, child)


def apart(name, work):
    pid = os.fork()
    if pid == 0:
        code = work()
        if code is not None:
            say(name, code)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        print(name, "signal", os.WTERMSIG(status), flush=True)


def say(name, code):
    print(name, "ok" if code == 0 else errno.errorcode.get(code, code), flush=True)


def attempt(name, work):
    try:
        work()
        say(name, 0)
    except OSError as error:
        say(name, error.errno)


def write(path):
    with open(path, "w") as file:
        file.write("x")


for path in ["/x", "/usr/x", "/etc/x", "/dev/x", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
             "/sandbox/x", "/tmp/x", "/dev/null", "/opt/ro/x"]:
    attempt("write:" + path, lambda: write(path))
for path in ["/proc/1/environ", "/proc/1/root", "/proc/1/mem", "/sys", "/dev/kvm", "/dev/mem", "/root", "/home", "/var",
             "/etc/shadow", "/etc/passwd", "/proc/self/environ", "/proc/cpuinfo"]:
    attempt("read:" + path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1))
attempt("kill:1", lambda: os.kill(1, 9))
attempt("kill:self", lambda: os.kill(os.getpid(), 0))
attempt("fork", lambda: os.waitpid(os.fork() or os._exit(0), 0))
call("ptrace", 101, 16, 1, 0, 0)
call("process_vm_readv", 310, 1, 0, 0, 0, 0, 0)
call("mount", 165, 0, 0, 0, 0, 0)
call("umount2", 166, 0, 0)
call("unshare", 272, 0x10000000)
call("setns", 308, 0, 0)
call("clone-newuser", 56, 0x10000000 | 17, 0, 0, 0, 0)
call("clone3", 435, 0, 0)
call("chroot", 161, 0)
call("keyctl", 250, 0, -3, 0)
call("add_key", 248, 0, 0, 0, 0, 0)
call("io_uring_setup", 425, 1, 0)
call("bpf", 321, 0, 0, 0)
call("perf_event_open", 298, 0, 0, 0, 0, 0)
call("userfaultfd", 323, 0)
call("open_by_handle_at", 304, 0, 0, 0)
call("seccomp", 317, 1, 0, 0)
call("tiocsti", 16, 0, 0x5412, 0)
call("tiocsti-high", 16, 0, 0x100005412, 0)
call("x32", 0x40000000 + 39)
call("getpid", 39)
for name, family, kind, protocol in [
    ("unix", 1, 1, 0), ("inet", 2, 1, 0), ("inet6", 10, 1, 0), ("udp", 2, 2, 0), ("route", 16, 3, 0),
    ("nflog", 16, 3, 12), ("vsock", 40, 1, 0), ("alg", 38, 5, 0), ("packet", 17, 3, 0), ("raw", 2, 3, 6),
    ("raw6", 10, 3, 6), ("ping", 2, 2, 1), ("ping6", 10, 2, 58), ("mptcp", 2, 1, 262),
]:
    attempt("socket:" + name, lambda: socket.socket(family, kind, protocol).close())
for name, family, kind, protocol in [
    ("sctp", 2, 1, 132), ("sctp-seq", 10, 5, 132), ("smc", 2, 1, 256), ("udplite", 2, 2, 136), ("dccp", 2, 6, 33),
    ("l2tp", 2, 2, 115), ("tcp", 2, 1, 6), ("udp17", 10, 2, 17),
]:
    attempt("socket:" + name, lambda: socket.socket(family, kind, protocol).close())
stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
attempt("sockopt:ulp", lambda: stream.setsockopt(6, 31, b"tls"))
attempt("sockopt:nodelay", lambda: stream.setsockopt(6, 1, 1))
call("clone-parent", 56, 0x8000 | 17, 0, 0, 0, 0)
call("tiocsetd", 16, 0, 0x5423, 0)
call("io_setup", 206, 1, 0)
call("sync", 162)
watch = libc.inotify_init1(0)
for name, mask in [("access", 1), ("close-nowrite", 0x10), ("open", 0x20), ("create", 0x100)]:
    ctypes.set_errno(0)
    say("inotify:" + name, ctypes.get_errno() if libc.inotify_add_watch(watch, b"/usr/bin", mask) < 0 else 0)
os.close(watch)
call("dnotify", 72, 0, 1026, 0x80000001)
import resource
attempt("prlimit:1", lambda: resource.prlimit(1, resource.RLIMIT_CPU, resource.prlimit(1, resource.RLIMIT_CPU)))
attempt("prlimit:self", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
none = (ctypes.c_long * 2)(0, 0)
call("rlimit:core", 302, 0, 4, ctypes.addressof(none), 0)
attempt("rlimit:core-read", lambda: resource.getrlimit(resource.RLIMIT_CORE))
call("setrlimit:core", 160, 4, ctypes.addressof(none))
stream.close()
def shows(path):
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False
published = """consoles cpuinfo crypto devices dma execdomains fb filesystems iomem ioports loadavg meminfo misc mounts
    mtrr net self stat sys sysvipc thread-self tty uptime version""".split()
shown = sorted(p for p in os.listdir("/proc") if not p.isdigit() and shows("/proc/" + p))
print("proc-more", ",".join(p for p in shown if p not in published))
print("proc-there", ",".join(p for p in shown if p in ["cpuinfo", "meminfo", "self", "stat"]))
print("proc-sys", ",".join(p for p in ["kernel/random/boot_id", "fs/file-nr", "kernel/ostype"] if shows("/proc/sys/" + p)))
print("fds", ",".join(sorted(set(os.listdir("/proc/self/fd")) - {"3"})))
print("env", ",".join(sorted(os.environ)))
print("uid", os.getuid(), os.getgid(), os.getgroups())
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
print("caps", *[status[k] for k in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]])
print("nnp", status["NoNewPrivs"], "filters", status["Seccomp_filters"])
print("pids", ",".join(sorted(p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid())))
print("interfaces", [name for _, name in socket.if_nameindex()])
