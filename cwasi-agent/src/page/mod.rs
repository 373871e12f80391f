//! The status page: the node at a glance, for a browser on it. It reads, and changes nothing.
//!
//! - `guard`: who may see it. `view`: the HTML. `graph`: the picture of who talks to whom.
//!
//! The page is one document without a reference to another: its style and script are in it, and its Content-Security-Policy
//! allows nothing else. The script asks for the page again and again and puts the new `<main>` in the place of the old one; without
//! scripts the page loads itself anew.

mod graph;
mod guard;
mod view;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use sha2::{Digest, Sha256};

use crate::agent::Overview;
use crate::api::lock;
use crate::http::{Started, starting};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// How old an overview may be that is shown: however many look, the kernel's maps are walked at most this often.
const FRESH: Duration = Duration::from_secs(1);

/// Whom the status page is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum StatusPage {
    /// Nobody: there is none.
    #[default]
    Off,
    /// Those that connect from a loopback address, as a browser on the node and `kubectl port-forward` do.
    Loopback,
    /// Whoever reaches the address of the metrics.
    Any,
}

/// What the page is made of.
struct Page {
    started: Started,
    seen: Mutex<Option<(Instant, Arc<Overview>)>>,
}

impl Page {
    /// The node at a glance, `None` until the agent has started.
    fn overview(&self) -> Option<Arc<Overview>> {
        let agent = self.started.get()?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, overview)) = &*seen
            && when.elapsed() < FRESH
        {
            return Some(Arc::clone(overview));
        }
        let overview = Arc::new(lock(agent).overview());
        *seen = Some((Instant::now(), Arc::clone(&overview)));
        Some(overview)
    }
}

/// The routes `/status` and `/status.json`; none when the page is off.
pub fn router(audience: StatusPage, started: Started) -> Router {
    if audience == StatusPage::Off {
        return Router::new();
    }
    let page = Page {
        started,
        seen: Mutex::default(),
    };
    Router::new()
        .route("/status", get(show))
        .route("/status.json", get(show_json))
        .with_state(Arc::new(page))
        .layer(middleware::map_response(secure))
        .layer(middleware::from_fn_with_state(audience, guard::admit))
}

async fn show(State(page): State<Arc<Page>>) -> Response {
    match page.overview() {
        Some(overview) => axum::response::Html(view::document(&overview).into_string()).into_response(),
        None => starting(),
    }
}

async fn show_json(State(page): State<Arc<Page>>) -> Response {
    let Some(overview) = page.overview() else {
        return starting();
    };
    match serde_json::to_string(overview.as_ref()) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Nothing is loaded, framed, sent or run but what the page itself brings, and nobody keeps a copy.
async fn secure(mut response: Response) -> Response {
    static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| policy().parse().ok());
    let headers = response.headers_mut();
    if let Some(policy) = POLICY.clone() {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    let fixed: [(HeaderName, &str); 4] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn policy() -> String {
    let hash = |text: &str| BASE64.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}
