//! A function that the host serves by HTTP.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /` | a line |
//! | `POST /` | the request's body, as it comes |
//! | `POST /length` | how many bytes the request's body has, in digits, when all of it was read |
//! | `GET /env` | its variables, as JSON |
//! | `GET /hold/MIB/MS` | a line, after it has kept MIB MiB of memory for MS milliseconds |
//! | `GET /fetch?URL` | the answer of `URL` (http: or https:), or 502 and why there is none |
//! | `GET /trap` | none: it traps |
//! | `GET /trap?late` | a line, and then it traps |

use std::collections::BTreeMap;
use std::env;
use std::hint::black_box;

use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// Bytes that are moved at once from one body to another.
const PIECE: u64 = 64 * 1024;
/// Most bytes that the host takes in one blocking write.
const MAX_WRITE: usize = 4096;
const MIB: usize = 1024 * 1024;

struct Function;

wasip2::http::proxy::export!(Function);

impl wasip2::exports::http::incoming_handler::Guest for Function {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        match (request.method(), path) {
            (Method::Get, "/") => text(answer, 200, "hello from a function\n"),
            (Method::Post, "/") => stream(answer, 200, |output| copy_body(request.consume(), output)),
            (Method::Post, "/length") => sized_text(answer, &length(request.consume()).to_string()),
            (Method::Get, "/env") => {
                let variables: BTreeMap<String, String> = env::vars().collect();
                text(answer, 200, &format!("{}\n", serde_json::json!(variables)));
            }
            (Method::Get, "/fetch") => match fetch(query) {
                Ok(response) => stream(answer, response.status(), |output| {
                    copy_body(response.consume(), output);
                }),
                Err(error) => text(answer, 502, &format!("{error}\n")),
            },
            (Method::Get, "/trap") if query == "late" => stream(answer, 200, |output| {
                write(output, "it begins well\n");
                panic!("as asked");
            }),
            (Method::Get, "/trap") => panic!("as asked"),
            (Method::Get, path) => match path.strip_prefix("/hold/").and_then(hold) {
                Some(line) => text(answer, 200, &line),
                None => text(answer, 404, "not found\n"),
            },
            _ => text(answer, 405, "not allowed\n"),
        }
    }
}

/// Keeps memory for some time: `MIB/MS`.
fn hold(wanted: &str) -> Option<String> {
    let (mib, milliseconds) = wanted.split_once('/')?;
    let bytes = mib.parse::<usize>().ok()?.checked_mul(MIB)?;
    let nanoseconds = milliseconds.parse::<u64>().ok()?.checked_mul(1_000_000)?;
    let memory = black_box(vec![1u8; bytes]);
    monotonic_clock::subscribe_duration(nanoseconds).block();
    Some(format!("held {} MiB\n", memory.len() / MIB))
}

fn fetch(url: &str) -> Result<IncomingResponse, ErrorCode> {
    let (scheme, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (Scheme::Http, rest),
        (_, Some(rest)) => (Scheme::Https, rest),
        _ => return Err(ErrorCode::HttpRequestUriInvalid),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })));
    set.map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let response = outgoing_handler::handle(request, None)?;
    response.subscribe().block();
    let ready = response.get().expect("it is ready");
    ready.expect("it was not taken before")
}

fn text(answer: ResponseOutparam, status: u16, text: &str) {
    stream(answer, status, |output| write(output, text));
}

/// Answers with a line whose length the head says.
fn sized_text(answer: ResponseOutparam, text: &str) {
    let length = text.len().to_string().into_bytes();
    let fields = Fields::from_list(&[("content-length".to_owned(), length)]).expect("a valid field");
    respond(answer, OutgoingResponse::new(fields), |output| {
        write(output, text)
    });
}

fn write(output: &OutputStream, text: &str) {
    for piece in text.as_bytes().chunks(MAX_WRITE) {
        output
            .blocking_write_and_flush(piece)
            .expect("the client takes the answer");
    }
}

/// Answers with what `write` writes.
fn stream(answer: ResponseOutparam, status: u16, write: impl FnOnce(&OutputStream)) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("a status code");
    respond(answer, response, write);
}

fn respond(answer: ResponseOutparam, response: OutgoingResponse, write: impl FnOnce(&OutputStream)) {
    let body = response.body().expect("it was not taken before");
    ResponseOutparam::set(answer, Ok(response));
    let output = body.write().expect("it was not taken before");
    write(&output);
    // A stream must be gone before its body ends.
    drop(output);
    OutgoingBody::finish(body, None).expect("the client takes the answer");
}

/// Reads a body to its end and counts its bytes.
fn length(body: Result<IncomingBody, ()>) -> u64 {
    let body = body.expect("it was not taken before");
    let input = body.stream().expect("it was not taken before");
    let mut length = 0;
    loop {
        match input.blocking_read(PIECE) {
            Ok(piece) => length += piece.len() as u64,
            Err(StreamError::Closed) => return length,
            Err(StreamError::LastOperationFailed(error)) => panic!("{}", error.to_debug_string()),
        }
    }
}

fn copy_body(body: Result<IncomingBody, ()>, output: &OutputStream) {
    let body = body.expect("it was not taken before");
    let input = body.stream().expect("it was not taken before");
    copy(&input, output);
}

fn copy(input: &InputStream, output: &OutputStream) {
    loop {
        match output.blocking_splice(input, PIECE) {
            Ok(_) => {}
            Err(StreamError::Closed) => return,
            Err(StreamError::LastOperationFailed(error)) => panic!("{}", error.to_debug_string()),
        }
    }
}
