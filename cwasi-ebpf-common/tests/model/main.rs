//! The data plane's races, explored exhaustively: every interleaving of small cases, step by step as the kernel's locks allow.

mod direction;
mod pairing;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, Expectation, Model};

/// What was found of a case: the properties that do not hold, and the things that never happen.
fn explore<M>(case: M) -> Vec<&'static str>
where
    M: Model + Copy + Debug + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let checker = case.checker().threads(2).spawn_bfs().join();
    println!("{case:?}: {} states", checker.unique_state_count());
    let properties = case.properties().into_iter();
    let failing = properties.filter(|property| {
        let found = checker.discovery(property.name).is_some();
        found == (property.expectation == Expectation::Always)
    });
    failing.map(|property| property.name).collect()
}
