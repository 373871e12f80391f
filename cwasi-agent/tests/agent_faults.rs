//! What is taken from an agent while functions talk: its pins, its bpffs, its disk; and from functions, their buffers. No byte is lost,
//! no connection broken, and what the agent says is true.

mod support;
mod support_agent;

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::netns::veth;
use support_agent::agent::Agent;
use support_agent::busy::{Busy, SERVER, STREAMS};
use support_agent::function::{Caller, echo};
use support_agent::names_in;

/// Busy functions whose bytes are redirected.
fn redirected(agent: &Agent) -> Busy {
    let mut busy = Busy::start(agent);
    busy.is_redirected(agent);
    busy
}

/// The last byte of every stream has come back, and nothing of the functions stays.
fn finish(busy: Busy, agent: &Agent) {
    let _netns = busy.end();
    support::eventually("the functions are forgotten", || agent.functions().is_empty());
    support::eventually("no flow stays behind", || agent.flows().is_empty());
}

/// A mount of the test's own, which goes with the test.
struct Mount(PathBuf);

impl Mount {
    fn new(kind: &str, at: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&at).expect("make a directory");
        mount(Some(kind), &at, Some(kind), MsFlags::empty(), Some(options)).expect("mount");
        Self(at)
    }

    fn remount(&self, flags: MsFlags) {
        let flags = flags | MsFlags::MS_REMOUNT;
        mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).expect("remount");
    }

    fn unmount(&self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmount");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // One that a test unmounted is gone already.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn remove(dir: &Path) {
    fs::remove_dir_all(dir).expect("remove pins");
}

#[test]
fn pins_that_are_removed_by_hand() {
    needs!();
    let agent = Agent::start();
    let mut busy = redirected(&agent);
    remove(&agent.pins());
    busy.caller.goes_on();
    // The agent holds the maps, but links live by their pins: it attaches the programs again.
    let links = agent.pins().join("links");
    support::eventually("the programs are attached again", || names_in(&links).len() == 2);
    busy.new_connection_is_redirected(&agent);
    assert!(agent.output(&["status"]).status.success());
    // The next one finds nothing, and begins anew with the functions that it knows.
    agent.kill();
    busy.caller.goes_on();
    agent.run();
    busy.caller.goes_on();
    assert_eq!(agent.functions().len(), 2);
    assert!(agent.output(&["status"]).status.success());
    busy.new_connection_is_redirected(&agent);
    finish(busy, &agent);
    assert_eq!(names_in(&agent.pins().join("links")), [] as [&str; 0]);
}

#[test]
fn a_bpffs_that_is_unmounted() {
    needs!();
    let mut agent = Agent::absent();
    let bpffs = Mount::new("bpf", agent.dir.path().join("bpffs"), "mode=700");
    agent.bpffs = bpffs.0.join("cwasi");
    agent.run();
    assert!(agent.status().accelerating);
    let mut busy = redirected(&agent);
    bpffs.unmount();
    busy.caller.goes_on();
    support::eventually("status tells", || {
        let degraded = agent.status().degraded;
        degraded.iter().any(|why| why.reason == "attach")
    });
    busy.caller.goes_on();
    assert_eq!(
        names_in(&bpffs.0),
        [] as [&str; 0],
        "nothing is made on another file system"
    );
    // One that is mounted again is empty: what was pinned went with the old one.
    agent.kill();
    busy.caller.goes_on();
    let again = Mount::new("bpf", bpffs.0.clone(), "mode=700");
    agent.run();
    busy.caller.goes_on();
    assert!(agent.output(&["status"]).status.success());
    assert_eq!(agent.functions().len(), 2);
    busy.new_connection_is_redirected(&agent);
    finish(busy, &agent);
    drop(agent);
    drop(again);
}

/// What `status` says of the state directory.
fn cannot_save(agent: &Agent) -> bool {
    let degraded = agent.status().degraded;
    degraded.iter().any(|why| why.reason == "state_dir")
}

#[test]
fn a_state_directory_that_cannot_be_written() {
    needs!();
    let agent = Agent::absent();
    let state = Mount::new("tmpfs", agent.dir.path().join("state"), "size=64k,mode=700");
    agent.run();
    let fill = state.0.join("fill");
    // A full disk.
    let full = || {
        let mut size = 64 << 10;
        while fs::write(&fill, vec![0_u8; size]).is_err() {
            size -= 4096;
        }
    };
    full();
    let mut busy = redirected(&agent);
    assert!(cannot_save(&agent), "{:?}", agent.status().degraded);
    assert!(!agent.output(&["status"]).status.success());
    busy.new_connection_is_redirected(&agent);
    fs::remove_file(&fill).expect("remove a file");
    support::eventually("the functions are saved", || {
        !cannot_save(&agent) && agent.saved_functions().len() == 2
    });
    assert!(agent.output(&["status"]).status.success());

    // A disk that the kernel no longer lets anyone write.
    state.remount(MsFlags::MS_RDONLY);
    let (other, mut another) = {
        let other = echo(&agent, "other-echo", &busy.netns[1], "10.1.0.11:8");
        let mut another = Caller::start(&agent, "other", &busy.netns[0], "10.1.0.11:8");
        another.stream(1);
        (other, another)
    };
    assert!(cannot_save(&agent), "{:?}", agent.status().degraded);
    busy.caller.goes_on();
    // A kill now costs the new functions nothing but what is saved nowhere.
    agent.kill();
    another.goes_on();
    state.remount(MsFlags::empty());
    agent.run();
    another.goes_on();
    busy.new_connection_is_redirected(&agent);
    support::eventually("all is well again", || agent.output(&["status"]).status.success());
    another.finish();
    drop(other);
    finish(busy, &agent);
    assert_eq!(agent.saved_functions(), [] as [&str; 0]);
}

/// Nearly every message finds a full queue on one of the two ways. With the smallest buffers that the kernel gives, plain TCP stands still
/// for more than ten seconds now and then: what overtakes its reader is dropped and sent again, ever more slowly.
#[test]
fn functions_with_hardly_any_buffers() {
    needs!();
    let agent = Agent::start();
    let netns = veth();
    for end in &netns {
        end.sysctl("ipv4/tcp_rmem", "9216 9216 9216");
        end.sysctl("ipv4/tcp_wmem", "4608 4608 4608");
    }
    let server = echo(&agent, "small-echo", &netns[1], SERVER);
    let mut caller = Caller::start(&agent, "small-caller", &netns[0], SERVER);
    caller.stream(STREAMS);
    caller.goes_on();
    for _ in 0..3 {
        agent.succeed(&["disable"]);
        caller.goes_on();
        agent.succeed(&["enable"]);
        caller.goes_on();
    }
    caller.finish();
    drop(server);
    support::eventually("no flow stays behind", || agent.flows().is_empty());
    assert!(agent.output(&["status"]).status.success());
}
