//! The functions of manifests/examples, as a kubelet would run them.

use std::fs;

use cwasi_testnode::cri::Stream;
use cwasi_testnode::images::Form;
use cwasi_testnode::{ContainerSpec, Node, PodSpec, Result, node_tests};
use serde_json::Value;
use xtask::paths;

node_tests!(echo_and_ping, embed);

/// The pod template of a file of the examples.
fn template(file: &str) -> Value {
    let path = paths::root().join("manifests/examples").join(file);
    let text = fs::read_to_string(path).expect("an example");
    let objects = cwasi_manifests::render::objects(&text).expect("YAML");
    objects[0]["spec"]["template"].clone()
}

fn pod(name: &str, template: &Value) -> PodSpec {
    assert_eq!(template["spec"]["runtimeClassName"], "cwasi");
    let annotations = template["metadata"]["annotations"].as_object();
    annotations
        .into_iter()
        .flatten()
        .fold(PodSpec::new(name), |pod, (key, value)| {
            pod.annotation(key, value.as_str().expect("a string"))
        })
}

/// A container of a template; `service` is what the cluster's DNS would make of the name `echo`.
fn container(template: &Value, list: &str, service: &str) -> ContainerSpec {
    let container = &template["spec"][list][0];
    let word = |value: &Value| value.as_str().expect("a string").to_owned();
    let args = container["args"].as_array().expect("arguments").iter();
    let args = args.map(|arg| word(arg).replace("echo:", &format!("{service}:")));
    let context = [
        &container["securityContext"],
        &template["spec"]["securityContext"],
    ];
    let user = context.iter().find_map(|context| context["runAsUser"].as_i64());
    let memory = word(&container["resources"]["limits"]["memory"]);
    let mebibytes: i64 = memory.strip_suffix("Mi").expect("MiB").parse().expect("a number");
    ContainerSpec::new(&word(&container["name"]), &word(&container["image"]))
        .args(args)
        .user(user.expect("a user"))
        .memory(mebibytes << 20)
        .confined()
}

fn import(node: &Node) -> Result<()> {
    for function in ["echo", "ping"] {
        node.import_function(function, Form::Rootfs)?;
    }
    Ok(())
}

fn echo_and_ping(node: &Node) -> Result<()> {
    import(node)?;
    let (server, client) = (template("echo.yaml"), template("ping.yaml"));
    let (server_pod, client_pod) = (node.pod(&pod("echo", &server))?, node.pod(&pod("ping", &client))?);
    let echo = server_pod.run(&container(&server, "containers", ""))?;
    echo.says(Stream::Stderr, "listening")?;
    let ping = client_pod.run(&container(&client, "containers", &server_pod.ip()?))?;
    assert_eq!(ping.wait()?, 0, "{}", ping.stderr()?);
    assert!(ping.stdout()?.contains("\"count\":10000"), "{}", ping.stdout()?);
    Ok(())
}

fn embed(node: &Node) -> Result<()> {
    import(node)?;
    let template = template("embed.yaml");
    let pod = node.pod(&pod("embed", &template))?;
    let echo = pod.run(&container(&template, "initContainers", ""))?;
    echo.says(Stream::Stderr, "listening")?;
    let ping = pod.run(&container(&template, "containers", ""))?;
    assert_eq!(ping.wait()?, 0, "{}", ping.stderr()?);
    assert!(ping.stdout()?.contains("\"count\":10000"), "{}", ping.stdout()?);
    Ok(())
}
