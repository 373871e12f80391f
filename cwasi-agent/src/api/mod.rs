//! The Unix socket: `cwasi_client::protocol`, one JSON object a line.
//!
//! [`socket`]: who may listen. [`server`]: connections and their limits. [`dispatch`]: requests.

pub mod dispatch;
pub mod server;
pub mod socket;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::agent::Agent;

/// The agent, shared by API, metrics and the clock.
pub type Shared = Arc<Mutex<Agent>>;

/// Locks the agent. A panic while it was locked has ended its task; what it left is still the best there is.
pub fn lock(agent: &Shared) -> MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}
