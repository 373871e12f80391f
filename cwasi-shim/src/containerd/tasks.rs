//! The containers of a shim, in an order that containerd relies on as it does with runc's shim: what would end a container, or the
//! shim, waits for one that is being made. containerd deletes what it has given up waiting for, and does not ask again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Tasks by the ids of their containers.
pub(super) struct Tasks<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    made: HashMap<String, Arc<T>>,
    making: HashSet<String>,
    removing: usize,
}

/// A task that is being made; without [`Creation::finish`] there was none.
pub(super) struct Creation<'t, T> {
    tasks: &'t Tasks<T>,
    id: String,
}

/// A task that is being removed; without [`Removal::finish`] it stays.
pub(super) struct Removal<'t, T> {
    tasks: &'t Tasks<T>,
    id: String,
    /// The task.
    pub(super) task: Arc<T>,
}

impl<T> Tasks<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                made: HashMap::new(),
                making: HashSet::new(),
                removing: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, busy: impl Fn(&State<T>) -> bool) -> MutexGuard<'_, State<T>> {
        let waited = self.changed.wait_while(self.lock(), |state| busy(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// A task that was made.
    pub(super) fn get(&self, id: &str) -> Option<Arc<T>> {
        self.lock().made.get(id).cloned()
    }

    /// Begins to make a task; `None` when there is one, or will be.
    pub(super) fn create(&self, id: &str) -> Option<Creation<'_, T>> {
        let mut state = self.lock();
        let is_new = !state.made.contains_key(id) && state.making.insert(id.to_owned());
        is_new.then(|| Creation {
            tasks: self,
            id: id.to_owned(),
        })
    }

    /// Begins to remove a task, after it was made; `None` when there is none.
    pub(super) fn remove(&self, id: &str) -> Option<Removal<'_, T>> {
        let mut state = self.wait_while(|state| state.making.contains(id));
        let task = state.made.get(id).cloned()?;
        state.removing += 1;
        Some(Removal {
            tasks: self,
            id: id.to_owned(),
            task,
        })
    }

    /// Whether there are none, once all that was begun is done.
    pub(super) fn are_over(&self) -> bool {
        let state = self.wait_while(|state| !state.making.is_empty() || state.removing > 0);
        state.made.is_empty()
    }
}

impl<T> Creation<'_, T> {
    pub(super) fn finish(self, task: Arc<T>) {
        self.tasks.lock().made.insert(self.id.clone(), task);
    }
}

impl<T> Drop for Creation<'_, T> {
    fn drop(&mut self) {
        self.tasks.lock().making.remove(&self.id);
        self.tasks.changed.notify_all();
    }
}

impl<T> Removal<'_, T> {
    pub(super) fn finish(self) {
        self.tasks.lock().made.remove(&self.id);
    }
}

impl<T> Drop for Removal<'_, T> {
    fn drop(&mut self) {
        self.tasks.lock().removing -= 1;
        self.tasks.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Long enough for a thread that does not wait to be done.
    const A_WHILE: Duration = Duration::from_millis(50);

    #[test]
    fn what_is_deleted_while_it_is_made_is_removed() {
        let tasks = Tasks::new();
        let creation = tasks.create("a").unwrap();
        assert!(tasks.get("a").is_none(), "not yet");
        assert!(tasks.create("a").is_none(), "one at a time");
        thread::scope(|scope| {
            let deleted = scope.spawn(|| {
                tasks.remove("a").unwrap().finish();
            });
            let over = scope.spawn(|| tasks.are_over());
            thread::sleep(A_WHILE);
            assert!(!deleted.is_finished() && !over.is_finished());
            // Others are not held up.
            tasks.create("b").unwrap();
            assert!(tasks.remove("b").is_none());
            creation.finish(Arc::new(()));
            deleted.join().unwrap();
            over.join().unwrap();
        });
        assert!(tasks.are_over());
    }

    #[test]
    fn a_creation_that_fails_leaves_no_task() {
        let tasks = Tasks::<()>::new();
        let creation = tasks.create("a").unwrap();
        thread::scope(|scope| {
            let deleted = scope.spawn(|| tasks.remove("a").is_none());
            thread::sleep(A_WHILE);
            drop(creation);
            assert!(deleted.join().unwrap());
        });
        assert!(tasks.are_over() && tasks.create("a").is_some());
    }

    #[test]
    fn a_removal_that_fails_leaves_the_task() {
        let tasks = Tasks::new();
        tasks.create("a").unwrap().finish(Arc::new(()));
        drop(tasks.remove("a").unwrap());
        assert!(tasks.get("a").is_some() && !tasks.are_over());
        tasks.remove("a").unwrap().finish();
        assert!(tasks.are_over());
    }
}
