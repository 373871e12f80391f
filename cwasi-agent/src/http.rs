//! `/metrics`, `/healthz` and `/readyz`, and the status page.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::api::{Shared, lock};
use crate::metrics;
use crate::page::{self, StatusPage};

/// The agent, once it has started.
pub type Started = Arc<OnceLock<Shared>>;

/// Serves HTTP until the runtime ends. Until the agent has started, only `/healthz` succeeds.
///
/// # Errors
/// The listener is broken.
pub async fn serve(listener: TcpListener, started: Started, page: StatusPage) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(&started))
        .merge(page::router(page, started));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).await
}

pub(crate) fn starting() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
}

async fn show_metrics(State(started): State<Started>) -> Response {
    let Some(agent) = started.get() else {
        return starting();
    };
    let snapshot = lock(agent).snapshot();
    match metrics::render(&snapshot) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// A degraded agent is ready: it answers, and functions run on plain TCP.
async fn ready(State(started): State<Started>) -> Response {
    let Some(agent) = started.get() else {
        return starting();
    };
    let degraded = lock(agent).snapshot().degraded;
    let mut text = "ok\n".to_owned();
    for cause in degraded {
        text += &format!("degraded: {}: {}\n", cause.reason, cause.detail);
    }
    text.into_response()
}
