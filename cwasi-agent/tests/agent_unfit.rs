//! An agent on a kernel that cannot: it says why, accelerates nothing, and connections are what they are without it.
//!
//! Capabilities are in `agent_rights`, a kernel under lockdown in `kernel_locked`.

mod support;
mod support_agent;

use support::netns::veth;
use support_agent::agent::Agent;
use support_agent::function::{Caller, echo};

const SERVER: &str = "10.1.0.11:7";

/// In a mount namespace whose /sys/kernel/btf is empty, as where CONFIG_DEBUG_INFO_BTF is off.
const WITHOUT_BTF: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"",
    "sh",
];

#[test]
fn without_btf_connections_stay_on_tcp() {
    needs!();
    let agent = Agent::absent();
    agent.run_by(&WITHOUT_BTF);
    let status = agent.status();
    assert!(!status.accelerating);
    let cause = status.degraded.iter().find(|cause| cause.reason == "load");
    let cause = cause.unwrap_or_else(|| panic!("no cause `load`: {:#?}", status.degraded));
    assert!(
        cause.detail.contains("/sys/kernel/btf/vmlinux"),
        "{}",
        cause.detail
    );
    assert!(cause.remedy.contains("CONFIG_DEBUG_INFO_BTF"), "{}", cause.remedy);

    let netns = veth();
    let server = echo(&agent, "unfit-echo", &netns[1], SERVER);
    let mut caller = Caller::start(&agent, "unfit-caller", &netns[0], SERVER);
    let (_, bytes) = caller.talk(5);
    assert!(bytes > 0);
    assert_eq!(agent.redirected("unfit-caller"), 0);
    caller.finish();
    drop(server);
}
