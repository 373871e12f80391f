//! What a shim does with the engine: one process prepares, another, forked from it without an exec and with fewer rights, runs.
//! A process of its own without a test harness, because only one that has no other threads may go on after a fork.

use std::fs;
use std::os::unix::fs::chroot;
use std::path::Path;

use cwasi_shim::cache::Cache;
use cwasi_shim::code::Code;
use cwasi_shim::engine::{Engine, Origin};
use cwasi_shim::guest::{Guest, GuestConfig};
use cwasi_shim::network::{NetworkPolicy, Refusals};
use cwasi_shim::stdio::Stdio;
use cwasi_shim::{http, signals};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, Uid, fork, getpid, setuid};

const CODE: u8 = 42;
const NOBODY: Uid = Uid::from_raw(65534);

fn main() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: forks into other users and namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    for (name, wasm) in [
        (
            "component",
            include_bytes!("../../bench/functions/prebuilt/inspect.wasm").as_slice(),
        ),
        (
            "module",
            include_bytes!("../../bench/functions/prebuilt/inspect-p1.wasm"),
        ),
    ] {
        println!("{name}");
        runs_in_forked_processes(wasm, &cache, dir.path());
    }
    println!("signals");
    signals_end_the_first_process_of_a_namespace();
}

fn runs_in_forked_processes(wasm: &[u8], cache: &Cache, dir: &Path) {
    let engine = Engine::new().unwrap();
    // Compiling takes threads, so another process does that.
    let compiled = in_child(|| {
        let prepared = engine.prepare(wasm, Some(cache)).unwrap();
        u8::from(matches!(prepared.origin, Origin::Compiled { stored: true, .. }))
    });
    assert_eq!(compiled, WaitStatus::Exited(compiled.pid().unwrap(), 1));

    let prepared = engine.prepare(wasm, Some(cache)).unwrap();
    assert!(matches!(prepared.origin, Origin::Cache));
    assert_eq!(threads(), 1, "no thread is started before the fork");
    let file = prepared.code.into_file();
    let run = |engine: &Engine| {
        // SAFETY: the file is what the engine has just prepared.
        let code = unsafe { Code::from_file(file.try_clone().unwrap()) };
        let program = engine.link(&code).unwrap();
        block_on(Guest::new(&program, &config()).unwrap().run()).unwrap()
    };
    let empty = dir.join("empty");
    fs::create_dir_all(&empty).unwrap();
    let lives: [(&str, &dyn Fn() -> u8); 4] = [
        ("as it is", &|| run(&engine)),
        ("with an engine of its own", &|| run(&Engine::new().unwrap())),
        ("as another user", &|| {
            setuid(NOBODY).unwrap();
            run(&engine)
        }),
        ("as another user, without /proc", &|| {
            chroot(&empty).unwrap();
            setuid(NOBODY).unwrap();
            run(&engine)
        }),
    ];
    for (what, life) in lives {
        let ended = in_child(life);
        assert_eq!(
            ended,
            WaitStatus::Exited(ended.pid().unwrap(), i32::from(CODE)),
            "{what}"
        );
    }
}

/// The kernel drops signals to such a process that it would die of, unless it blocks or handles them.
fn signals_end_the_first_process_of_a_namespace() {
    for signal in signals::ENDING {
        let ended = in_child(|| {
            // For the processes that this one makes from now on.
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            let ended = in_child(|| {
                assert_eq!(getpid(), Pid::from_raw(1));
                signals::on_end(Box::new(|signal| {
                    std::process::exit(i32::from(cwasi_shim::exit::by_signal(signal)))
                }))
                .unwrap();
                // Dropped, as for every first process.
                raise(Signal::SIGUSR1).unwrap();
                kill(getpid(), signal).unwrap();
                loop {
                    std::thread::park();
                }
            });
            match ended {
                WaitStatus::Exited(_, code) => u8::try_from(code).unwrap(),
                _ => 0,
            }
        });
        let code = i32::from(cwasi_shim::exit::by_signal(signal));
        assert_eq!(ended, WaitStatus::Exited(ended.pid().unwrap(), code), "{signal}");
    }
}

/// Runs `life` in a forked process, whose exit code it gives.
fn in_child(life: impl FnOnce() -> u8) -> WaitStatus {
    // SAFETY: this process has one thread, which goes on in the child.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
            std::process::exit(code.map_or(101, i32::from))
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    }
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn config() -> GuestConfig {
    GuestConfig {
        name: "guest".to_owned(),
        local: None,
        alone: true,
        args: ["inspect", "--exit", &CODE.to_string()]
            .map(str::to_owned)
            .to_vec(),
        env: Vec::new(),
        stdio: Stdio::default(),
        preopens: Vec::new(),
        cwd: None,
        http: http::DEFAULT_ADDRESS,
        network: NetworkPolicy::unrestricted(),
        refusals: Refusals::new(|_| ()),
        memory_limit: None,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}
