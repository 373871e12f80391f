//! Guests that the host serves by HTTP, and the network policy of a guest.

use std::process::Command;

use cwasi_testnode::cri::Stream;
use cwasi_testnode::images::Form;
use cwasi_testnode::{ContainerSpec, Node, Pod, PodSpec, Result, node_tests, wait};

node_tests!(
    http_guests_answer_curl,
    the_address_is_chosen,
    peers_are_allowed_by_annotation
);

/// Asks from the node, as a kubelet's probe does, until something answers.
fn curl(node: &Node, arguments: &[&str]) -> Result<String> {
    wait::until(format!("an answer to curl {arguments:?}"), || {
        let output = node.namespaces().run(|| {
            let mut command = Command::new("curl");
            command
                .args(["--silent", "--show-error", "--max-time", "20"])
                .args(arguments);
            wait::output(&mut command)
        })?;
        Ok(output.status.success().then(|| wait::text(&output.stdout)))
    })
}

fn serve<'n>(node: &'n Node, spec: &PodSpec, container: ContainerSpec) -> Result<Pod<'n>> {
    let pod = node.pod(spec)?;
    pod.run(&container)?;
    Ok(pod)
}

fn http_guests_answer_curl(node: &Node) -> Result<()> {
    let image = node.import_function("http", Form::Rootfs)?;
    let container = ContainerSpec::new("http", &image).env("COLOUR", "blue");
    let pod = serve(node, &PodSpec::new("web"), container)?;
    let url = format!("http://{}:8080", pod.ip()?);
    assert_eq!(curl(node, &[&url])?, "hello from a function\n");
    assert_eq!(curl(node, &["--data-binary", "echo this", &url])?, "echo this");
    let variables = curl(node, &[&format!("{url}/env")])?;
    assert!(variables.contains("\"COLOUR\":\"blue\""), "{variables}");
    // One request that traps is its own business.
    let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let trapped = curl(node, &[&code[..], &[&format!("{url}/trap")]].concat())?;
    assert_eq!(trapped, "500");
    assert_eq!(curl(node, &[&url])?, "hello from a function\n");
    Ok(())
}

fn the_address_is_chosen(node: &Node) -> Result<()> {
    let image = node.import_function("http", Form::Artifact)?;
    let container = ContainerSpec::new("http", &image)
        .command(&["/app.wasm"])
        .annotation("cwasi.dev/http-address", "0.0.0.0:9000");
    let pod = serve(node, &PodSpec::new("web"), container)?;
    let answer = curl(node, &[&format!("http://{}:9000", pod.ip()?)])?;
    assert_eq!(answer, "hello from a function\n");
    Ok(())
}

fn peers_are_allowed_by_annotation(node: &Node) -> Result<()> {
    let echo = node.import_function("echo", Form::Rootfs)?;
    let ping = node.import_function("ping", Form::Rootfs)?;
    let server = node.pod(&PodSpec::new("server"))?;
    server
        .run(&ContainerSpec::new("echo", &echo).args(["0.0.0.0:7000"]))?
        .says(Stream::Stderr, "listening")?;
    let address = format!("{}:7000", server.ip()?);
    let client = node.pod(&PodSpec::new("client"))?;
    let call = |name: &str, allowed: &str| {
        let spec = ContainerSpec::new(name, &ping).annotation("cwasi.dev/allow-net", allowed);
        client.run(&spec.args([address.as_str(), "--size", "64", "--count", "10"]))
    };
    let allowed = call("allowed", "10.88.0.0/16")?;
    assert_eq!(allowed.wait()?, 0, "{}", allowed.stderr()?);
    let refused = call("refused", "192.0.2.0/24")?;
    assert_ne!(refused.wait()?, 0);
    let reason = refused.stderr()?;
    assert!(
        reason.contains("cwasi.dev/allow-net") && reason.contains(&address),
        "{reason}"
    );
    Ok(())
}
