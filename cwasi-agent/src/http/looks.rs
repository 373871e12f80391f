//! Looks at the agent for whoever asks over HTTP, which is anybody who reaches the port.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::Started;
use crate::api::lock;
use crate::metrics;

/// A look walks every open connection, and nothing else is done meanwhile: looks take at most one part in so many of the time.
const SHARE: u32 = 5;

/// What is told of the agent at a moment.
#[derive(Debug)]
pub(super) struct Look {
    began: Instant,
    took: Duration,
    /// The text of the metrics, or why there is none.
    pub(super) metrics: Result<String, String>,
    /// Reasons for which it is degraded.
    pub(super) degraded: Vec<String>,
}

/// The looks, one at a time. However many ask, each gets one that began after it asked.
pub(super) struct Looks {
    started: Started,
    last: Mutex<Option<Arc<Look>>>,
}

impl Looks {
    pub(super) fn new(started: Started) -> Self {
        Self {
            started,
            last: Mutex::default(),
        }
    }

    /// A look, `None` until the agent has started.
    pub(super) async fn look(&self) -> Option<Arc<Look>> {
        let agent = self.started.get()?;
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(look) = &*last {
            if look.began >= asked {
                return Some(Arc::clone(look));
            }
            sleep_until(look.began + look.took * SHARE).await;
        }
        let began = Instant::now();
        let snapshot = lock(agent).snapshot();
        let metrics = metrics::render(&snapshot).map_err(|error| format!("{error}\n"));
        let degraded = snapshot.degraded.into_iter().map(|cause| cause.reason).collect();
        let look = Arc::new(Look {
            began,
            took: began.elapsed(),
            metrics,
            degraded,
        });
        *last = Some(Arc::clone(&look));
        Some(look)
    }
}
