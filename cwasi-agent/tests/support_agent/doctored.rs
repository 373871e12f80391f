//! A kernel that lacks something, as a process sees it: what such a kernel would refuse is refused to the process, at its system calls
//! (seccomp_unotify(2), Linux 5.5), and what it would not tell is taken out of a copy of its BTF.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use cwasi_agent::kernel::btf::Btf;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub const BPF_MAP_CREATE: u64 = 0;
pub const BPF_PROG_LOAD: u64 = 5;
pub const BPF_LINK_CREATE: u64 = 28;
pub const BPF_LINK_UPDATE: u64 = 29;

/// A system call that a process is about to make.
pub struct Call {
    pid: u32,
    /// Its number.
    pub number: libc::c_long,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel does it.
    Done,
    /// It fails with this errno.
    Fails(i32),
    /// It returns this.
    Returns(i64),
}

impl Call {
    /// Memory of the process.
    pub fn memory(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let memory = File::open(format!("/proc/{}/mem", self.pid)).expect("open the memory of a process");
        memory
            .read_exact_at(&mut bytes, address)
            .expect("read the memory of a process");
        bytes
    }

    /// Writes to the memory of the process.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        let memory = File::options()
            .write(true)
            .open(format!("/proc/{}/mem", self.pid));
        let written = memory.and_then(|memory| memory.write_all_at(bytes, address));
        written.expect("write to the memory of a process");
    }

    /// The command of a bpf(2).
    pub fn bpf(&self) -> Option<u64> {
        (self.number == libc::SYS_bpf).then_some(self.arguments[0])
    }

    /// A word of the attributes of a bpf(2).
    pub fn attribute(&self, at: u64) -> u32 {
        let word = self.memory(self.arguments[1] + at, 4);
        u32::from_ne_bytes(word.try_into().expect("4 bytes"))
    }

    fn long_attribute(&self, at: u64) -> u64 {
        u64::from(self.attribute(at)) | u64::from(self.attribute(at + 4)) << 32
    }

    /// The helpers that a program calls that is loaded.
    pub fn helpers(&self) -> BTreeSet<u32> {
        /// `BPF_JMP | BPF_CALL`.
        const CALL: u8 = 0x85;
        let instructions = self.memory(self.long_attribute(8), 8 * self.attribute(4) as usize);
        let calls = instructions
            .chunks_exact(8)
            // A source register other than 0 means a function of the program, or of the kernel.
            .filter(|it| it[0] == CALL && it[1] >> 4 == 0);
        calls
            .map(|it| u32::from_ne_bytes(it[4..].try_into().expect("4 bytes")))
            .collect()
    }

    /// Tells the loader of a program what the verifier has against it, where it wants to know.
    pub fn verifier_says(&self, words: &str) {
        let (level, size) = (self.attribute(24), self.attribute(28) as usize);
        if level > 0 && size > words.len() {
            self.write(self.long_attribute(32), &[words.as_bytes(), &[0]].concat());
        }
    }

    /// A copy of the descriptor of the process (pidfd_getfd(2), Linux 5.6).
    pub fn descriptor(&self, number: u64) -> OwnedFd {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("read a status");
        let leader = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let leader: i32 = leader.expect("a leader").trim().parse().expect("a pid");
        // SAFETY: both calls take integers, and give new descriptors.
        unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, leader, 0);
            let process = OwnedFd::from_raw_fd(i32::try_from(process).expect("a descriptor"));
            let copy = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
            OwnedFd::from_raw_fd(i32::try_from(copy).expect("a descriptor"))
        }
    }
}

/// The kernel of some processes, for as long as this lives. They must end before.
pub struct Kernel {
    stop: Arc<AtomicBool>,
    judging: Option<JoinHandle<()>>,
}

impl Kernel {
    /// Gives `judge` every call of these numbers that the processes make that `start` starts, and `start`'s result back.
    pub fn new<T: Send>(
        watched: &[libc::c_long],
        judge: impl Fn(&Call) -> Verdict + Send + 'static,
        start: impl FnOnce() -> T + Send,
    ) -> (Self, T) {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, listeners) = channel();
        std::thread::scope(|scope| {
            // The filter stays with its thread and the processes that it starts.
            let starting = scope.spawn(move || {
                sender
                    .send(listen(watched).expect("filter system calls"))
                    .expect("tell of the filter");
                start()
            });
            let listener = listeners.recv().expect("a filter");
            let judging = std::thread::spawn({
                let stop = Arc::clone(&stop);
                move || judge_all(&listener, &stop, judge)
            });
            let started = starting.join().expect("start a process");
            let kernel = Self {
                stop,
                judging: Some(judging),
            };
            (kernel, started)
        })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(judging) = self.judging.take()
            && judging.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a system call could not be judged");
        }
    }
}

/// Why system calls cannot be judged here, `None` if they can: one filter of a process may ask, and that of a container may do so.
pub fn missing() -> Option<String> {
    let tried = std::thread::spawn(|| listen(&[]).err()).join();
    let error = tried.expect("a filter of a thread that ends")?;
    Some(format!("no filter of system calls: {error}"))
}

/// Puts a filter on this thread that asks about these calls.
fn listen(watched: &[libc::c_long]) -> io::Result<OwnedFd> {
    let code = |parts: u32| u16::try_from(parts).expect("16 bits");
    let number = u32::try_from(std::mem::offset_of!(libc::seccomp_data, nr)).expect("an offset");
    let answer = |value| {
        // SAFETY: makes a value.
        unsafe { libc::BPF_STMT(code(libc::BPF_RET | libc::BPF_K), value) }
    };
    // SAFETY: as above.
    let mut filter =
        vec![unsafe { libc::BPF_STMT(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), number) }];
    for call in watched {
        let call = u32::try_from(*call).expect("a number");
        let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
        // SAFETY: as above.
        filter.push(unsafe { libc::BPF_JUMP(equal, call, 0, 1) });
        filter.push(answer(libc::SECCOMP_RET_USER_NOTIF));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a short filter"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions are live; root needs no no_new_privs.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    match i32::try_from(listener).map_err(io::Error::other)? {
        // SAFETY: a descriptor that the kernel has just made for us.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn judge_all(listener: &OwnedFd, stop: &AtomicBool, judge: impl Fn(&Call) -> Verdict) {
    while !stop.load(Ordering::Relaxed) {
        let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut waited, PollTimeout::from(20_u8));
        match waited[0].revents() {
            Some(events) if events.contains(PollFlags::POLLIN) => {}
            // Nobody is left (Linux 5.9).
            Some(events) if events.contains(PollFlags::POLLHUP) => return,
            _ => continue,
        }
        // SAFETY: all zero is what the kernel asks for.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes into the struct that the request names.
        if unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut asked,
            )
        } < 0
        {
            // It was killed meanwhile.
            continue;
        }
        let call = Call {
            pid: asked.pid,
            number: asked.data.nr.into(),
            arguments: asked.data.args,
        };
        let (val, error, flags) = match judge(&call) {
            Verdict::Done => (
                0,
                0,
                u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).expect("a flag"),
            ),
            Verdict::Fails(errno) => (0, -errno, 0),
            Verdict::Returns(value) => (value, 0, 0),
        };
        let mut answer = libc::seccomp_notif_resp {
            id: asked.id,
            val,
            error,
            flags,
        };
        // SAFETY: the kernel reads the struct that the request names. One that was killed meanwhile needs no answer.
        unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw mut answer,
            )
        };
    }
}

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// A copy of the kernel's BTF, to be changed.
pub struct BtfImage(Vec<u8>);

impl BtfImage {
    pub fn of_kernel() -> Self {
        Self(std::fs::read(VMLINUX).expect("read the kernel's BTF"))
    }

    fn word(&self, at: usize) -> usize {
        let bytes = self.0[at..at + 4].try_into().expect("4 bytes");
        u32::from_ne_bytes(bytes) as usize
    }

    /// Where the member of a struct is described (`struct btf_member`: name, type, offset in bits).
    fn member(&self, structure: &str, member: &str) -> usize {
        let header = self.word(4);
        let (types, strings) = (header + self.word(8), header + self.word(16));
        let is = |name: usize, wanted: &str| {
            let text = &self.0[strings + name..];
            text.starts_with(wanted.as_bytes()) && text[wanted.len()] == 0
        };
        let (mut at, end) = (types, types + self.word(12));
        while at < end {
            let (name, info) = (self.word(at), self.word(at + 4));
            let (kind, count) = (info >> 24 & 0x1f, info & 0xffff);
            at += 12;
            let found = (kind == 4 && is(name, structure))
                .then(|| (0..count).find(|index| is(self.word(at + 12 * index), member)));
            if let Some(Some(index)) = found {
                return at + 12 * index;
            }
            // As in Documentation/bpf/btf.rst.
            at += match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
        }
        panic!("no {structure}.{member} in the kernel's BTF")
    }

    /// Takes the name of a member away.
    pub fn hide(&mut self, structure: &str, member: &str) {
        let at = self.member(structure, member);
        self.0[at..at + 4].fill(0);
    }

    /// Has a member where another one is.
    pub fn mistake(&mut self, structure: &str, member: &str, for_member: &str) {
        let btf = Btf::parse(&self.0).expect("BTF");
        let other = btf.member(structure, for_member).expect("the other member");
        let at = self.member(structure, member);
        self.0[at + 8..at + 12].copy_from_slice(&other.bit_offset.to_ne_bytes());
    }

    /// Writes it, and gives the command under which a process sees it as the kernel's.
    pub fn shown(&self, file: &Path) -> Vec<String> {
        std::fs::write(file, &self.0).expect("write BTF");
        mounted(&format!("mount --bind {} {VMLINUX}", file.display()))
    }
}

/// The command under which a process has mounts of its own, changed by these words of a shell.
pub fn mounted(change: &str) -> Vec<String> {
    let script = format!("{change} && exec \"$@\"");
    ["unshare", "--mount", "sh", "-c", &script, "sh"]
        .map(str::to_owned)
        .into()
}
