//! Traces of starts: what a collector is told of them, and what a start is without one.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cwasi_testnode::cri::Stream;
use cwasi_testnode::functions::prebuilt;
use cwasi_testnode::images::Form;
use cwasi_testnode::{Container, ContainerSpec, Error, Node, PodSpec, Result, node_tests, wait};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

node_tests!(
    a_start_is_told_stage_by_stage,
    what_waits_is_sent_before_the_shim_ends,
    nothing_is_told_unless_asked_for,
    starts_need_no_collector,
);

/// Name of the shim's spans.
const SCOPE: &str = "containerd-shim-cwasi-v1";
/// Where collectors listen by convention.
const CONVENTION: &str = "127.0.0.1:4318";

type Attributes = HashMap<String, Value>;

fn attributes(pairs: &[KeyValue]) -> Attributes {
    let pairs = pairs.iter().cloned();
    pairs
        .filter_map(|pair| Some((pair.key, pair.value?.value?)))
        .collect()
}

/// A span of the shim.
#[derive(Clone, Debug)]
struct Span {
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    began: u64,
    ended: u64,
    error: Option<String>,
    attributes: Attributes,
    resource: Attributes,
}

impl Span {
    fn text(&self, key: &str) -> Option<&str> {
        match self.attributes.get(key)? {
            Value::StringValue(text) => Some(text),
            other => panic!("{key}: {other:?}"),
        }
    }

    fn is(&self, key: &str) -> bool {
        match self.attributes.get(key) {
            Some(Value::BoolValue(is)) => *is,
            other => panic!("{key}: {other:?} in {self:?}"),
        }
    }

    fn number(&self, key: &str) -> i64 {
        match self.attributes.get(key) {
            Some(Value::IntValue(number)) => *number,
            other => panic!("{key}: {other:?} in {self:?}"),
        }
    }
}

/// A listener on the node's loopback.
fn listen(node: &Node, address: &str) -> Result<TcpListener> {
    node.namespaces().run(|| {
        TcpListener::bind(address).map_err(|error| Error::Output {
            program: "the collector".to_owned(),
            detail: error.to_string(),
        })
    })
}

/// A collector on the node's loopback.
struct Collector {
    endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start(node: &Node) -> Result<Self> {
        let listener = listen(node, "127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr().expect("getsockname"));
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let seen = Arc::clone(&spans);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || while serve(&stream, &seen).is_some() {});
            }
        });
        Ok(Self { endpoint, spans })
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of a container, by name, when its guest was made.
    fn start_of(&self, container: &Container<'_>) -> Result<HashMap<String, Span>> {
        wait::until("the start is told whole", || {
            let spans = self.spans();
            let of_container = spans
                .iter()
                .filter(|span| span.text("container.id") == Some(container.id()));
            let mut found: HashMap<String, Span> = HashMap::new();
            for call in of_container {
                let stages = spans
                    .iter()
                    .filter(|span| span.parent == call.id && span.name.starts_with("cwasi."));
                found.extend(stages.map(|span| (span.name.clone(), span.clone())));
                found.insert(call.name.clone(), call.clone());
            }
            let is_whole = ["cwasi.create", "cwasi.start", "cwasi.instantiate"]
                .iter()
                .all(|name| found.contains_key(*name));
            Ok(is_whole.then_some(found))
        })
    }
}

/// Takes one request; `None` when there are no more.
fn serve(mut stream: &TcpStream, seen: &Mutex<Vec<Span>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        if line == "\r\n" {
            break;
        }
        head.push(line.to_ascii_lowercase());
    }
    assert!(head[0].starts_with("post /v1/traces "), "{head:?}");
    assert!(
        head.contains(&"content-type: application/x-protobuf\r\n".to_owned()),
        "{head:?}"
    );
    let length = head
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.trim().parse().expect("a length")];
    reader.read_exact(&mut body).ok()?;
    let request = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for of_resource in request.resource_spans {
        let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
        for of_scope in of_resource.scope_spans {
            // containerd's own.
            if of_scope.scope.unwrap_or_default().name != SCOPE {
                continue;
            }
            seen.extend(of_scope.spans.into_iter().map(|span| {
                Span {
                    name: span.name,
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    began: span.start_time_unix_nano,
                    ended: span.end_time_unix_nano,
                    error: span
                        .status
                        .filter(|status| status.code == StatusCode::Error as i32)
                        .map(|status| status.message),
                    attributes: attributes(&span.attributes),
                    resource: resource.clone(),
                }
            }));
        }
    }
    drop(seen);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .ok()
}

fn a_start_is_told_stage_by_stage(node: &Node) -> Result<()> {
    let collector = Collector::start(node)?;
    node.restart_containerd_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
        ("OTEL_SERVICE_NAME", "functions"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ])?;
    let image = node.import_function("echo", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("traced"))?;
    let bytes = i64::try_from(prebuilt("echo")?.len()).expect("small");
    for (name, port, is_cached) in [("first", 7000, false), ("second", 7001, true)] {
        let spec = ContainerSpec::new(name, &image);
        let container = pod.run(&spec.args([format!("127.0.0.1:{port}")]))?;
        container.says(Stream::Stderr, "listening")?;
        let start = collector.start_of(&container)?;
        let create = &start["cwasi.create"];
        assert_eq!(create.text("k8s.pod.name"), Some("traced"));
        assert_eq!(create.text("k8s.namespace.name"), Some("default"));
        assert_eq!(create.text("k8s.container.name"), Some(name));
        assert_eq!(create.text("cwasi.sandbox.id"), Some(pod.id()));
        assert!(!create.is("cwasi.sandbox"));
        let text = |value: &str| Some(Value::StringValue(value.to_owned()));
        assert_eq!(create.resource.get("service.name").cloned(), text("functions"));
        assert_eq!(
            create.resource.get("deployment.environment.name").cloned(),
            text("test")
        );

        let mut before = create.began;
        for stage in ["cwasi.image", "cwasi.compile", "cwasi.container", "cwasi.enrol"] {
            let stage = &start[stage];
            assert_eq!(
                (&stage.parent, &stage.trace),
                (&create.id, &create.trace),
                "{stage:?}"
            );
            assert!(
                before <= stage.began && stage.began <= stage.ended,
                "{stage:?} after {before}"
            );
            before = stage.ended;
        }
        assert!(before <= create.ended, "{create:?}");
        assert_eq!(start["cwasi.image"].text("cwasi.wasm.name"), Some("/app.wasm"));
        assert_eq!(start["cwasi.image"].number("cwasi.wasm.bytes"), bytes);
        assert_eq!(start["cwasi.compile"].is("cwasi.cache.hit"), is_cached);
        assert!(start["cwasi.compile"].number("cwasi.code.bytes") > bytes);
        assert!(start["cwasi.container"].number("process.pid") > 0);
        assert!(!start["cwasi.enrol"].is("cwasi.accelerated"), "there is no agent");

        let call = &start["cwasi.start"];
        assert_eq!(
            call.trace, create.trace,
            "of one trace, whether containerd makes some or not"
        );
        let (go, instantiate) = (&start["cwasi.go"], &start["cwasi.instantiate"]);
        assert_eq!((&go.parent, &instantiate.parent), (&call.id, &call.id));
        assert!(create.ended <= call.began && call.began <= instantiate.began);
        assert!(instantiate.began < instantiate.ended, "{instantiate:?}");
    }
    let spans = collector.spans();
    let sandbox = spans
        .iter()
        .find(|span| span.text("container.id") == Some(pod.id()));
    assert!(sandbox.is_some_and(|span| span.is("cwasi.sandbox")), "{spans:?}");

    let spec = ContainerSpec::new("broken", &image).command(&["/no-such.wasm"]);
    assert!(pod.run(&spec).is_err());
    wait::until("the failure is told", || {
        let failed = |span: &Span| {
            let says_why = span
                .error
                .as_ref()
                .is_some_and(|why| why.contains("/no-such.wasm"));
            span.name == "cwasi.create" && span.text("k8s.container.name") == Some("broken") && says_why
        };
        Ok(collector.spans().iter().any(failed).then_some(()))
    })
}

fn what_waits_is_sent_before_the_shim_ends(node: &Node) -> Result<()> {
    let collector = Collector::start(node)?;
    node.restart_containerd_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
    ])?;
    runs_to_its_end(node)?;
    let spans = collector.spans();
    let start = spans
        .iter()
        .find(|span| span.name == "cwasi.start" && span.text("k8s.container.name") == Some("inspect"));
    let start = start.unwrap_or_else(|| panic!("no start in {spans:?}"));
    let Some(Value::StringValue(service)) = start.resource.get("service.name") else {
        panic!("no service in {start:?}");
    };
    // containerd 2 names itself in its environment.
    assert!([SCOPE, "containerd"].contains(&service.as_str()), "{service}");
    Ok(())
}

fn runs_to_its_end(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("plain"))?;
    let container = pod.run(&ContainerSpec::new("inspect", &image))?;
    container.wait()?;
    container.remove()?;
    // The shim ends with its pod, and with it what waits to be sent.
    node.settle()
}

fn nothing_is_told_unless_asked_for(node: &Node) -> Result<()> {
    let listener = listen(node, CONVENTION)?;
    runs_to_its_end(node)?;
    listener.set_nonblocking(true).expect("fcntl");
    let came = listener.accept().map(|(_, peer)| peer);
    assert_eq!(came.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    Ok(())
}

fn starts_need_no_collector(node: &Node) -> Result<()> {
    // One that takes connections and never answers, and one that is not there.
    let silent = listen(node, "127.0.0.1:0")?;
    let address = silent.local_addr().expect("getsockname");
    for (endpoint, told) in [(address.to_string(), false), ("127.0.0.1:9".to_owned(), true)] {
        node.restart_containerd_with(&[
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                &format!("http://{endpoint}/v1/traces"),
            ),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ])?;
        runs_to_its_end(node)?;
        if told {
            let log = node.log();
            assert!(log.contains("traces are lost"), "{log}");
        }
    }
    Ok(())
}
