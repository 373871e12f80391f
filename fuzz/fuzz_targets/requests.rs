//! Lines of the agent's socket, whatever they say: each is answered, and the agent stays within its bounds.
#![no_main]

use cwasi_agent::agent::{Candidate, validate};
use cwasi_agent::api::{Shared, dispatch::dispatch, lock};
use cwasi_client::protocol::{ApiError, FunctionSpec, MAX_REQUEST_BYTES, Reply, Request, Response};
use cwasi_fuzz::CALLER;
use libfuzzer_sys::fuzz_target;

/// Requests of one input: a longer one finds nothing that a shorter one does not.
const MOST: usize = 32;

/// A registration, as the agent does it once it has looked at the node.
fn register(agent: &Shared, mut spec: FunctionSpec) -> Result<Reply, ApiError> {
    validate(&spec)?;
    let cgroup = cwasi_fuzz::cgroup(spec.name.len() as u64);
    spec.cgroup = Some(cgroup.clone());
    lock(agent)
        .register(Candidate { spec, cgroup }, CALLER)
        .map(Reply::Registered)
}

fuzz_target!(|input: &[u8]| {
    let state = tempfile::tempdir().expect("a directory");
    let node = cwasi_fuzz::node();
    let agent = cwasi_fuzz::agent(&node, state.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let lines = input
        .split(|byte| *byte == b'\n')
        .filter(|line| line.len() < MAX_REQUEST_BYTES);
    for line in lines.take(MOST) {
        let Ok(request) = serde_json::from_slice::<Request>(line) else {
            continue;
        };
        let text = serde_json::to_string(&request).expect("a request can be written");
        assert_eq!(serde_json::from_str::<Request>(&text).ok(), Some(request.clone()));
        let result = match request {
            Request::Register(spec) => register(&agent, spec),
            other => runtime.block_on(dispatch(&agent, other, CALLER)),
        };
        let answer = result.map_or_else(Response::Error, Response::Ok);
        let answer = serde_json::to_string(&answer).expect("an answer can be written");
        assert!(!answer.contains('\n'), "{answer}");
        serde_json::from_str::<Response>(&answer).expect("an answer can be read");
    }
    cwasi_fuzz::check(&agent, &node);
    // What was saved is what the next agent finds.
    let functions = lock(&agent).functions().len();
    drop(agent);
    let next = cwasi_fuzz::agent(&node, state.path());
    assert_eq!(lock(&next).functions().len(), functions);
});
