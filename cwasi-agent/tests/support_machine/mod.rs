//! A machine of the tests' own, whose clock and limits may be changed: the virtual machines of `cargo xtask test --kernel`.
#![allow(unreachable_pub, reason = "as in `support`")]

pub mod clock;
pub mod disk;
pub mod limited;
pub mod memory;

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ends the test, visibly, where the machine is not the tests' own. Else holds it until the end of the test: one test at a time.
#[macro_export]
macro_rules! needs_own_machine {
    () => {
        needs!();
        needs_own_machine!(@alone);
    };
    (whatever the self_test finds) => {
        needs_root!();
        needs_own_machine!(@alone);
    };
    (@alone) => {
        if std::env::var_os($crate::support_machine::OWN).is_none() {
            let reason = "the machine is not the test's own, as those of `cargo xtask test --kernel` are";
            return $crate::support::probe::skipped(reason);
        }
        let _machine = $crate::support_machine::alone();
    };
}

/// Set where nothing but the tests runs.
pub const OWN: &str = "CWASI_TEST_MACHINE";

/// Waits until no other test uses the machine.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of the kernel's that holds a value, which is put back at the end.
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Changes it.
    pub fn change(path: impl Into<PathBuf>, value: &str) -> Self {
        let path = path.into();
        let before = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let setting = Self { path, before };
        setting.set(value);
        setting
    }

    /// Changes it again.
    pub fn set(&self, value: &str) {
        fs::write(&self.path, value)
            .unwrap_or_else(|error| panic!("write {value} to {}: {error}", self.path.display()));
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}
