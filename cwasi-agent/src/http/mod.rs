//! `/metrics`, `/healthz` and `/readyz`, and the status page.
//!
//! - `server`: connections and their limits. `looks`: how often the kernel's maps are walked for whoever asks.

mod looks;
mod server;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::api::Shared;
use crate::metrics;
use crate::page::{self, StatusPage};
use looks::Looks;

pub use server::Limits;

/// The agent, once it has started.
pub type Started = Arc<OnceLock<Shared>>;

/// Serves HTTP until the runtime ends. Until the agent has started, only `/healthz` succeeds.
pub async fn serve(listener: TcpListener, started: Started, page: StatusPage, limits: Limits) {
    let looks = Arc::new(Looks::new(Arc::clone(&started)));
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(looks)
        .merge(page::router(page, started));
    server::serve(listener, router, limits).await;
}

pub(crate) fn starting() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
}

async fn show_metrics(State(looks): State<Arc<Looks>>) -> Response {
    match looks.look().await.map(|look| look.metrics.clone()) {
        None => starting(),
        Some(Ok(text)) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

/// A degraded agent is ready: it answers, and functions run on plain TCP. What is wrong in detail bears names of functions, which
/// are not for whoever reaches this port.
async fn ready(State(looks): State<Arc<Looks>>) -> Response {
    let Some(look) = looks.look().await else {
        return starting();
    };
    let causes = look.degraded.iter();
    let lines = causes.map(|reason| format!("degraded: {reason}\n"));
    format!("ok\n{}", lines.collect::<String>()).into_response()
}
