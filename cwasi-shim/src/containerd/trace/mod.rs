//! Traces of starts, by OpenTelemetry's protocol (OTLP), when this process's environment asks for them.
//!
//! Spans are made in the shim alone, which has threads: the zygote was forked before, and containers' processes are in the pod's
//! network, from where no collector is reached. What only they can tell comes as [`Mark`]s through a pipe. Spans wait in a
//! bounded queue for a thread that sends them: no start waits for a collector, or fails without one.
//!
//! Where traces are off a [`Span`] is nothing, and nothing is set up for it.

mod collector;
mod environment;
mod mark;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Once, OnceLock};
use std::time::{Duration, SystemTime};

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};

use collector::Collector;
use environment::Wanted;
pub use mark::{Mark, Marked, marks};

/// Name of the instrumentation scope, and of the service unless the environment has one.
const SCOPE: &str = "containerd-shim-cwasi-v1";
/// Spans that may wait to be sent, unless the environment says: a start makes seven, and the queue is memory of every shim.
const QUEUE: usize = 256;
const QUEUE_VARIABLE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
/// Longest that the end of the shim waits for what was not sent yet.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static PROVIDER: OnceLock<Option<SdkTracerProvider>> = OnceLock::new();

/// The source of spans, `None` where traces are off.
fn provider() -> Option<&'static SdkTracerProvider> {
    PROVIDER
        .get_or_init(|| {
            let wanted = environment::wanted(|name| std::env::var(name).ok());
            let made = wanted.and_then(|wanted| wanted.map(make).transpose());
            made.unwrap_or_else(|error| {
                log::warn!("no traces: {error}");
                None
            })
        })
        .as_ref()
}

fn make(wanted: Wanted) -> Result<SdkTracerProvider, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_http_client(Collector::new(wanted.timeout))
        .build()
        .map_err(|error| error.to_string())?;
    let mut batches = BatchConfigBuilder::default();
    if std::env::var_os(QUEUE_VARIABLE).is_none() {
        batches = batches.with_max_queue_size(QUEUE);
    }
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches.build())
        .build();
    let mut resource = Resource::builder();
    if !wanted.has_service_name {
        resource = resource.with_service_name(SCOPE);
    }
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(resource.build())
        .build())
}

/// Sends what waits, as far as it goes soon. Spans that end later are lost.
pub(super) fn end() {
    if let Some(Some(provider)) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
    {
        log::warn!("traces: {error}");
    }
}

/// What a caller of the shim sends along with a call.
type Metadata = HashMap<String, Vec<String>>;

struct Caller<'a>(&'a Metadata);

impl Extractor for Caller<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.first().map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// The trace context of this process's environment, as a caller of a program gives it.
fn inherited() -> Context {
    let variables = ["traceparent", "tracestate"].map(|name| {
        let value = std::env::var(name.to_ascii_uppercase()).unwrap_or_default();
        (name.to_owned(), value)
    });
    TraceContextPropagator::new().extract(&HashMap::from(variables))
}

/// A stage of a start, which lasts until it is dropped; nothing where traces are off.
#[derive(Debug)]
pub struct Span(Option<Context>);

impl Span {
    /// A call of the shim. It belongs to the trace of its caller; where that has none, to that of `earlier`, or of the process
    /// that started the shim.
    #[must_use]
    pub fn of_call(name: &'static str, metadata: &Metadata, earlier: Option<&SpanContext>) -> Self {
        let Some(provider) = provider() else {
            return Self(None);
        };
        let of_caller = TraceContextPropagator::new().extract(&Caller(metadata));
        let parent = match earlier {
            _ if of_caller.has_active_span() => of_caller,
            Some(earlier) => Context::new().with_remote_span_context(earlier.clone()),
            None => inherited(),
        };
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        Self::start(provider, builder, &parent)
    }

    fn start(provider: &SdkTracerProvider, builder: SpanBuilder, parent: &Context) -> Self {
        let span = provider.tracer(SCOPE).build_with_context(builder, parent);
        Self(Some(parent.with_span(span)))
    }

    /// Whether anything is made of it.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// What later calls may belong to.
    #[must_use]
    pub fn context(&self) -> Option<SpanContext> {
        self.0
            .as_ref()
            .map(|context| context.span().span_context().clone())
    }

    /// A stage of this one.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        match (&self.0, provider()) {
            (Some(parent), Some(provider)) => Self::start(provider, SpanBuilder::from_name(name), parent),
            _ => Self(None),
        }
    }

    /// A stage of this one that somebody else went through.
    pub fn past(&self, name: &'static str, began: SystemTime, ended: SystemTime) {
        if let (Some(parent), Some(provider)) = (&self.0, provider()) {
            let builder = SpanBuilder::from_name(name).with_start_time(began);
            let mut span = provider.tracer(SCOPE).build_with_context(builder, parent);
            span.end_with_timestamp(ended);
        }
    }

    /// Does `work` as a stage of this one.
    ///
    /// # Errors
    /// Those of `work`, which the stage tells of.
    pub fn during<T, E: Display>(
        &self,
        name: &'static str,
        work: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let stage = self.child(name);
        let done = work(&stage);
        if let Err(error) = &done {
            stage.failed(error);
        }
        done
    }

    /// Adds an attribute. `value` is only asked for where there is a span.
    pub fn set<V: Into<Value>>(&self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value()));
        }
    }

    /// Adds an attribute that may be missing.
    pub fn set_some<V: Into<Value>>(&self, key: &'static str, value: impl FnOnce() -> Option<V>) {
        if self.is_recorded()
            && let Some(value) = value()
        {
            self.set(key, || value);
        }
    }

    /// Says why it failed.
    pub fn failed(&self, error: &dyn Display) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::Error {
                description: Cow::Owned(error.to_string()),
            });
        }
    }
}

/// Says once in the life of this process that traces are lost.
fn lost(error: &dyn Display) {
    static SAID: Once = Once::new();
    SAID.call_once(|| log::warn!("traces are lost: {error}"));
}
