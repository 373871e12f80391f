//! Requests to the agent's state.

use cwasi_client::protocol::{ApiError, ErrorCode, Reply, Request};

use super::{Shared, lock};
use crate::agent::{Candidate, Process, directory, version};

/// Carries out a request of the process `caller`.
///
/// # Errors
/// The request is refused.
pub async fn dispatch(agent: &Shared, request: Request, caller: Process) -> Result<Reply, ApiError> {
    match request {
        Request::Register(spec) => {
            // Looks at the file system and enters a network namespace, which takes a thread anyway.
            let resolved = tokio::task::spawn_blocking(move || Candidate::resolve(spec, caller.pid)).await;
            let candidate = resolved.map_err(|error| ApiError {
                code: ErrorCode::Internal,
                message: format!("the look at the function's process failed: {error}"),
            })??;
            lock(agent).register(candidate, caller).map(Reply::Registered)
        }
        Request::Unregister { id } => lock(agent).unregister(id).map(|()| Reply::Done),
        Request::UnregisterCgroup { cgroup } => {
            let cgroup = directory(&cgroup)?;
            lock(agent).unregister_cgroup(&cgroup).map(|()| Reply::Done)
        }
        Request::ReportProcess { of, report } => lock(agent)
            .report_process(&of, report, caller)
            .map(|()| Reply::Done),
        Request::Status => Ok(Reply::Status(Box::new(lock(agent).status()))),
        Request::Functions => Ok(Reply::Functions(lock(agent).functions())),
        Request::Flows => Ok(Reply::Flows(lock(agent).flows())),
        Request::Events { after } => Ok(Reply::Events(lock(agent).events(after))),
        Request::Explain { src, dst } => lock(agent).explain(&src, &dst).map(Reply::Explanation),
        Request::SetEnabled { enabled } => lock(agent).set_enabled(enabled).map(|()| Reply::Done),
        Request::Unload => lock(agent).unload().map(|()| Reply::Done),
        Request::Version => Ok(Reply::Version(version())),
    }
}
