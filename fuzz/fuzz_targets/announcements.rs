//! Files that launchers leave beside the agent's socket: each is a function or is told to be broken, and one that is written reads as
//! it was.
#![no_main]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use cwasi_client::announce::Announcements;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let announcements = Announcements::beside(&dir.path().join("agent.sock"));
    fs::create_dir(announcements.dir()).expect("a directory");
    fs::set_permissions(announcements.dir(), Permissions::from_mode(0o700)).expect("a mode");
    let file = announcements.dir().join("key.json");
    fs::write(&file, input).expect("a file");
    let listing = announcements.list().expect("the directory can be read");
    assert_eq!(listing.functions.len() + listing.broken.len(), 1, "{listing:?}");
    let Some((key, spec)) = listing.functions.into_iter().next() else {
        return;
    };
    if announcements.put(&key, &spec).is_ok() {
        assert_eq!(announcements.get(&key).ok().flatten(), Some(spec));
    }
});
