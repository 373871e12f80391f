//! Launchers that find no agent, or one that is still starting: their functions are accelerated once an agent is there, and
//! nothing stays when they end.

mod support;
mod support_agent;

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use cwasi_client::announce::Announcements;
use cwasi_client::client::{Client, ClientError};
use cwasi_client::protocol::{FunctionSpec, Sockets};
use support::netns::{Bridged, veth};
use support::pod::{Pod, connect};
use support::stream::Talk;
use support_agent::agent::Agent;
use support_agent::names_in;

fn announcements(agent: &Agent) -> Announcements {
    Announcements::beside(&agent.socket())
}

/// What a launcher of guests says: they wait in poll, whichever agent saw their listener begin.
fn spec(name: &str, pod: &Pod) -> FunctionSpec {
    FunctionSpec {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        cgroup: Some(pod.leaf().path().to_owned()),
        netns: Some(pod.netns.path()),
        sockets: Sockets::All,
        ..FunctionSpec::default()
    }
}

/// A new connection, and whether every byte of a conversation on it was redirected.
fn is_redirected(agent: &Agent, client: &Pod, listener: &TcpListener) -> bool {
    let connection = connect(client, listener, listener.local_addr().unwrap());
    let bytes = Talk::new(&connection, 1).converse();
    let flow = agent.flow_of(connection.0.local_addr().unwrap());
    flow.is_some_and(|flow| flow.sent.redirect_bytes == bytes)
}

/// Ids and names of the functions.
fn functions(agent: &Agent) -> Vec<(u32, String)> {
    let functions = agent.functions().into_iter();
    functions
        .map(|function| (function.id, function.spec.name))
        .collect()
}

/// Functions in the kernel's map.
fn in_kernel(agent: &Agent) -> u64 {
    let maps = agent.status().maps;
    maps.iter()
        .find(|map| map.name == "functions")
        .expect("the map")
        .entries
}

#[test]
fn functions_that_are_older_than_the_agent() {
    needs!();
    let (agent, [here, there]) = (Agent::absent(), veth());
    let (client, server) = (Pod::stranger(&here), Pod::stranger(&there));
    let launcher = announcements(&agent);
    launcher.put("test--client", &spec("client", &client)).unwrap();
    launcher.put("test--server", &spec("server", &server)).unwrap();
    let listener = server.listen((Bridged::v4(1), 0));
    let early = connect(&client, &listener, listener.local_addr().unwrap());
    let mut talk = Talk::new(&early, 1);
    talk.converse();

    agent.run();
    let known = functions(&agent);
    assert_eq!(known, [(1, "client".to_owned()), (2, "server".to_owned())]);
    for function in agent.functions() {
        assert!(function.accelerated, "{:?}", function.reason);
        assert_eq!(function.registered_by, 0);
        assert!(!function.spec.addresses.is_empty());
    }
    assert!(is_redirected(&agent, &client, &listener));
    // A connection that was there before stays as it is.
    talk.converse();
    assert_eq!(agent.flow_of(early.0.local_addr().unwrap()), None);

    assert_eq!(agent.terminate().code(), Some(0));
    agent.run();
    assert_eq!(functions(&agent), known);
    agent.kill();
    fs::remove_dir_all(agent.dir.path().join("state")).unwrap();
    agent.run();
    assert_eq!(functions(&agent).len(), 2, "without its state");
    assert!(is_redirected(&agent, &client, &listener));

    for (key, pod) in [("test--client", &client), ("test--server", &server)] {
        launcher.remove(key).unwrap();
        let mut agent = Client::connect(&agent.socket()).unwrap();
        agent.unregister_cgroup(pod.leaf().path()).unwrap();
    }
    assert_eq!(agent.functions(), []);
    assert_eq!(in_kernel(&agent), 0);
    assert_eq!(names_in(launcher.dir()), [] as [&str; 0]);
}

/// Functions whose launchers gave up on an agent that is there, and died.
#[test]
fn functions_of_launchers_that_never_asked() {
    needs!();
    let (agent, [here, there]) = (Agent::start(), veth());
    let (client, server) = (Pod::stranger(&here), Pod::stranger(&there));
    let launcher = announcements(&agent);
    launcher.put("test--client", &spec("client", &client)).unwrap();
    launcher.put("test--server", &spec("server", &server)).unwrap();
    support::eventually("the agent registers them", || agent.functions().len() == 2);
    let listener = server.listen((Bridged::v4(1), 0));
    assert!(is_redirected(&agent, &client, &listener));
    assert_eq!(in_kernel(&agent), 2);

    drop((listener, server));
    support::eventually("the file is removed", || {
        names_in(launcher.dir()) == ["test--client.json"]
    });
    support::eventually("the function is dropped", || agent.functions().len() == 1);
    agent.kill();
    drop(client);
    agent.run();
    assert_eq!(agent.functions(), []);
    assert_eq!(names_in(launcher.dir()), [] as [&str; 0]);
    assert_eq!(agent.saved_functions(), [] as [&str; 0]);
    support::eventually("the kernel forgets them", || {
        in_kernel(&agent) == 0 && names_in(&agent.pins().join("links")).is_empty()
    });
}

/// The socket is there before the agent answers.
#[test]
fn a_launcher_that_gives_up_on_a_starting_agent() {
    needs!();
    let (agent, [here, _there]) = (Agent::absent(), veth());
    let pod = Pod::stranger(&here);
    let launcher = announcements(&agent);
    let spec = spec("early", &pod);
    launcher.put("test--early", &spec).unwrap();
    agent.launch();
    let mut asked = None;
    support::eventually("the agent's socket is there", || {
        asked = Client::connect_timeout(&agent.socket(), Duration::from_millis(1)).ok();
        asked.is_some()
    });
    let answer = asked.unwrap().register(&spec);
    assert!(matches!(answer, Ok(_) | Err(ClientError::Slow)), "{answer:?}");
    // Both the announcement and the request that nobody waits for any more are of the same function.
    assert_eq!(functions(&agent), [(1, "early".to_owned())]);
    launcher.remove("test--early").unwrap();
    let mut client = Client::connect(&agent.socket()).unwrap();
    client.unregister_cgroup(pod.leaf().path()).unwrap();
    drop(pod);
    support::eventually("nothing is left", || agent.functions().is_empty());
    assert_eq!(names_in(launcher.dir()), [] as [&str; 0]);
}
