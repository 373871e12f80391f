//! The chart and Kustomize's bases, rendered by the real tools and held against Kubernetes' own schemas.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use cwasi_manifests::render::{self, chart, find, kustomization};
use cwasi_manifests::schema::Schemas;
use cwasi_manifests::{crds, skipped};
use serde_json::{Value, json};
use xtask::commands::manifests::{CHART, KUSTOMIZE};
use xtask::kubernetes::{RELEASES, Tools};
use xtask::paths;

/// Values of the Prometheus operator and of Grafana, which need what a cluster may not have.
const MONITORING: &str = "podMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true";

/// Values that a cluster may want, beside the defaults.
const VARIANTS: [&str; 8] = [
    "",
    MONITORING,
    "uninstall=true",
    "agent.enabled=false",
    "installer.enabled=false,runtimeClass.overhead=null,networkPolicy.from=null",
    "image.registry=,image.tag=x,image.pullPolicy=Never,image.pullSecrets[0].name=key,nodeSelector.cwasi\\.dev/node=yes",
    "agent.user=0,agent.metrics.address=[::],agent.localCidrs[0]=10.0.0.0/16,agent.localCidrs[1]=fd00::/64,agent.bpffs.autoMount=false,agent.statusPage=loopback",
    "installer.restart=command,installer.restartCommand=service containerd restart,installer.with={cwasi-run},installer.maxUnavailable=100%,\
     agent.seccompProfile.type=RuntimeDefault,agent.seccompProfile.localhostProfile=null,namespace.create=true",
];

macro_rules! tools {
    () => {
        match Tools::find() {
            Ok(tools) => tools,
            Err(reason @ xtask::Error::Missing { .. }) => return skipped(&reason),
            Err(error) => panic!("{error}"),
        }
    };
}

/// What the agent's container of a rendering is.
fn agent(objects: &[Value]) -> &Value {
    let agent = find(objects, "DaemonSet", "cwasi-agent").expect("the agent");
    &agent["spec"]["template"]["spec"]["containers"][0]
}

/// Fails when an object has a fault, and gives the kinds that Kubernetes does not know of itself.
fn hold(schemas: &mut Schemas, objects: &[Value], of: &str) -> BTreeSet<String> {
    assert!(!objects.is_empty(), "{of}: nothing is rendered");
    let mut foreign = BTreeSet::new();
    for object in objects {
        let title = format!("{of}: {} {}", object["kind"], object["metadata"]["name"]);
        match schemas.faults(object) {
            Some(faults) => assert!(faults.is_empty(), "{title}: {faults:#?}"),
            None => {
                foreign.insert(object["kind"].as_str().expect("a kind").to_owned());
            }
        }
    }
    foreign
}

#[test]
fn every_rendering_fits_kubernetes_schemas() {
    let tools = tools!();
    for release in RELEASES {
        let mut schemas = Schemas::of(release).expect("they are of the index that the tools are of");
        for values in VARIANTS {
            let objects = chart(&tools, values, release).unwrap_or_else(|error| panic!("{values}: {error}"));
            let foreign = hold(&mut schemas, &objects, &format!("{release} {values}"));
            let expected: &[&str] = if values == MONITORING {
                &["PodMonitor", "PrometheusRule"]
            } else {
                &[]
            };
            assert_eq!(foreign, expected.iter().map(|kind| (*kind).to_owned()).collect());
        }
    }
}

#[test]
fn schemas_find_faults() {
    let tools = tools!();
    let mut schemas = Schemas::of(RELEASES[2]).expect("they are of the index that the tools are of");
    let objects = chart(&tools, "", RELEASES[2]).expect("the chart renders");
    let mut wrong = find(&objects, "DaemonSet", "cwasi-agent")
        .expect("the agent")
        .clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = json!({});
    wrong["spec"]["template"]["spec"]["hostPID"] = json!("no");
    let faults = schemas.faults(&wrong).expect("a kind of Kubernetes");
    assert!(
        faults.iter().any(|fault| fault.contains("readynessProbe")),
        "{faults:?}"
    );
    assert!(faults.iter().any(|fault| fault.contains("hostPID")), "{faults:?}");
}

#[test]
fn objects_of_the_prometheus_operator_fit_its_crds() {
    let tools = tools!();
    let mut objects = chart(&tools, MONITORING, RELEASES[2]).expect("the chart renders");
    objects.retain(|object| object["apiVersion"] == "monitoring.coreos.com/v1");
    assert_eq!(objects.len(), 2);
    let found = match crds::faults(&objects) {
        Ok(found) => found,
        Err(reason) => return skipped(&reason),
    };
    assert_eq!(found, [""; 0]);
    for object in &mut objects {
        object["spec"]["podMetricsEndpoints"] = json!([{"port": 9464}]);
        object["spec"]["groups"] = json!([{"name": 1}]);
    }
    let found = crds::faults(&objects).expect("as before");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn kustomizations_build_and_fit_the_schemas() {
    let tools = tools!();
    let mut schemas = Schemas::of(RELEASES[2]).expect("they are of the index that the tools are of");
    let directory = |name: &str| paths::root().join(KUSTOMIZE).join(name);
    let base = kustomization(&tools, &directory("base")).expect("the base builds");
    assert_eq!(hold(&mut schemas, &base, "base"), BTreeSet::new());
    assert!(find(&base, "Namespace", "cwasi-system").is_some());
    let uninstall = kustomization(&tools, &directory("uninstall")).expect("the removal builds");
    assert_eq!(hold(&mut schemas, &uninstall, "uninstall"), BTreeSet::new());
    let examples = paths::root().join("manifests/examples");
    let examples = kustomization(&tools, &examples).expect("the examples build");
    assert_eq!(hold(&mut schemas, &examples, "examples"), BTreeSet::new());

    // As a cluster uses it: with monitoring, in a namespace and with a tag of its own.
    let overlay = tempfile::tempdir_in(directory("")).expect("a directory");
    let text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: elsewhere\nresources: [../base]\n\
                components: [../monitoring]\nimages:\n- name: ghcr.io/cwasi/cwasi-agent\n  newTag: other\n";
    fs::write(overlay.path().join("kustomization.yaml"), text).expect("write the overlay");
    let objects = kustomization(&tools, overlay.path()).expect("the overlay builds");
    let foreign = hold(&mut schemas, &objects, "overlay");
    assert_eq!(foreign.len(), 2, "{foreign:?}");
    assert_eq!(agent(&objects)["image"], "ghcr.io/cwasi/cwasi-agent:other");
    assert!(objects.iter().all(|object| {
        matches!(object["kind"].as_str(), Some("Namespace" | "RuntimeClass"))
            || object["metadata"]["namespace"] == "elsewhere"
    }));
}

#[test]
fn kustomizations_are_what_the_chart_renders() {
    let tools = tools!();
    let directory = paths::root().join(KUSTOMIZE).join("base");
    let mut base = kustomization(&tools, &directory).expect("the base builds");
    let mut chart = chart(&tools, "namespace.create=true", RELEASES[2]).expect("the chart renders");
    let plain = |objects: &mut Vec<Value>| {
        for object in objects.iter_mut() {
            for labels in ["/metadata/labels", "/spec/template/metadata/labels"] {
                if let Some(labels) = object.pointer_mut(labels).and_then(Value::as_object_mut) {
                    labels.retain(|label, _| {
                        !matches!(label.as_str(), "app.kubernetes.io/managed-by" | "helm.sh/chart")
                    });
                }
            }
        }
        objects.sort_by_key(|object| format!("{} {}", object["kind"], object["metadata"]["name"]));
    };
    plain(&mut base);
    plain(&mut chart);
    assert_eq!(base.len(), chart.len());
    for (base, chart) in base.iter().zip(&chart) {
        assert!(
            base == chart,
            "{} {} differs",
            base["kind"],
            base["metadata"]["name"]
        );
    }
}

#[test]
fn the_chart_is_without_a_fault_of_lint() {
    let tools = tools!();
    let mut helm = tools.helm();
    helm.args(["lint", "--strict", "--quiet", CHART]);
    let said = render::run(&mut helm).expect("helm lint");
    assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{said}");
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let tools = tools!();
    for (values, complaint) in [
        ("agent.budgetBytes=1", "minimum"),
        ("agent.budget=262144", "additional properties"),
        ("agent.localCidrs[0]=10.0.0.1", "pattern"),
        ("installer.restart=reboot", "one of"),
        ("agent.seccompProfile.type=Strict", "seccompProfile"),
    ] {
        let error = chart(&tools, values, RELEASES[2]).expect_err(values);
        assert!(error.contains(complaint), "{values}: {error}");
    }
}

/// Every value of the chart, as a path.
fn keys(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        keys(value, &path, into);
        into.insert(path);
    }
}

#[test]
fn the_schema_of_values_has_what_the_values_have() {
    let read = |name: &str| fs::read_to_string(paths::root().join(CHART).join(name)).expect(name);
    let values = render::objects(&read("values.yaml")).expect("YAML").remove(0);
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("JSON");
    let mut found = BTreeSet::new();
    keys(&values, "", &mut found);
    for path in &found {
        let parents: Vec<&str> = path.split('/').skip(1).collect();
        let mut place = &schema;
        for key in parents {
            let named = &place["properties"][key];
            if named.is_null() {
                // Labels and the like: any key may be there.
                assert!(
                    place["additionalProperties"].is_object() || place.get("oneOf").is_some(),
                    "{path}"
                );
                break;
            }
            place = named;
        }
    }
    let named = schema["properties"].as_object().expect("properties");
    for key in named.keys().filter(|key| *key != "global") {
        assert!(found.contains(&format!("/{key}")), "{key} has no default");
    }
}

/// Every container of every rendering whose image is called so.
fn containers(tools: &Tools, image: &str) -> Vec<Value> {
    let renderings = VARIANTS
        .iter()
        .map(|values| chart(tools, values, RELEASES[2]).expect("the chart renders"));
    let pods = renderings
        .flatten()
        .map(|object| object["spec"]["template"]["spec"].clone());
    let containers = pods.flat_map(|pod| [pod["initContainers"].clone(), pod["containers"].clone()]);
    let containers = containers
        .filter_map(|containers| containers.as_array().cloned())
        .flatten();
    containers
        .filter(|container| {
            container["image"]
                .as_str()
                .is_some_and(|name| name.contains(image))
        })
        .collect()
}

/// Fails when a program of the image would not understand its arguments, or an environment variable of cwasi's.
fn understands(tools: &Tools, image: &str, cli: &clap::Command, commands: &[&str]) {
    let mut used = BTreeSet::new();
    for container in containers(tools, image) {
        let arguments: Vec<&str> = container["args"]
            .as_array()
            .expect("arguments")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let parsed = cli
            .clone()
            .try_get_matches_from([&[image], &arguments[..]].concat());
        assert!(parsed.is_ok(), "{arguments:?}: {:?}", parsed.err());
        used.insert(arguments[0].to_owned());
        let known: BTreeSet<String> = cli
            .get_arguments()
            // The commands of a pod share theirs.
            .chain(cli.get_subcommands().flat_map(clap::Command::get_arguments))
            .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
            .chain(["CWASI_LOG".to_owned()])
            .collect();
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().expect("a name");
            assert!(known.contains(name), "{name} of {}", container["name"]);
        }
    }
    assert_eq!(
        used,
        commands.iter().map(|command| (*command).to_owned()).collect()
    );
}

#[test]
fn what_programs_are_told_is_what_they_understand() {
    let tools = tools!();
    understands(
        &tools,
        "cwasi-agent",
        &cwasi_agent::cli::Cli::command(),
        &["prepare", "run", "unload"],
    );
    understands(
        &tools,
        "cwasi-installer",
        &cwasi_installer::cli::Cli::command(),
        &["install", "uninstall"],
    );
}

#[test]
fn the_chart_has_the_version_of_the_programs() {
    let chart = fs::read_to_string(paths::root().join(CHART).join("Chart.yaml")).expect("Chart.yaml");
    let chart = render::objects(&chart).expect("YAML").remove(0);
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn defaults_ask_for_no_more_than_they_need() {
    let tools = tools!();
    let objects = chart(&tools, "", RELEASES[2]).expect("the chart renders");
    let kinds: BTreeSet<&str> = objects
        .iter()
        .filter_map(|object| object["kind"].as_str())
        .collect();
    // Neither a Role nor a binding, and nothing that needs a CRD.
    assert_eq!(
        kinds,
        ["DaemonSet", "NetworkPolicy", "RuntimeClass", "ServiceAccount"].into()
    );
    for name in ["cwasi-agent", "cwasi-installer"] {
        let set = find(&objects, "DaemonSet", name).expect(name);
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["priorityClassName"], "system-node-critical");
        assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
        assert_eq!(pod["automountServiceAccountToken"], false);
        for space in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod.get(space).is_none(), "{name}: {space}");
        }
        let all = [&pod["initContainers"], &pod["containers"]];
        for container in all.into_iter().filter_map(Value::as_array).flatten() {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert!(
                container["resources"]["limits"]["memory"].is_string(),
                "{container}"
            );
            // Only what mounts for others is privileged, and only until it has.
            if container["name"] == "prepare" {
                assert_eq!(context["privileged"], true);
                continue;
            }
            assert!(context.get("privileged").is_none(), "{container}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
            assert_ne!(context["seccompProfile"]["type"], "Unconfined", "{container}");
        }
        assert!(pod["containers"][0]["readinessProbe"].is_object());
    }
    let agent = agent(&objects);
    assert_eq!(agent["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        agent["securityContext"]["capabilities"]["add"],
        json!(["BPF", "NET_ADMIN", "PERFMON"])
    );
    assert_eq!(agent["ports"][0]["name"], "metrics");
    assert_eq!(
        agent["livenessProbe"]["httpGet"],
        json!({"path": "/healthz", "port": "metrics"})
    );
    assert_eq!(
        agent["readinessProbe"]["httpGet"],
        json!({"path": "/readyz", "port": "metrics"})
    );
    let class = find(&objects, "RuntimeClass", "cwasi").expect("the runtime class");
    assert_eq!(class["handler"], "cwasi");
    let installer =
        &find(&objects, "DaemonSet", "cwasi-installer").expect("the installer")["spec"]["template"]["spec"];
    assert_eq!(
        class["scheduling"]["nodeSelector"], installer["nodeSelector"],
        "pods go where the handler is"
    );
    assert!(class["overhead"]["podFixed"]["memory"].is_string());
    let policy = find(&objects, "NetworkPolicy", "cwasi-agent").expect("the policy");
    assert_eq!(
        policy["spec"]["ingress"][0]["ports"],
        json!([{"port": "metrics", "protocol": "TCP"}])
    );
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert!(policy["spec"].get("egress").is_none());
}

#[test]
fn a_removal_unloads_and_uninstalls_before_it_is_ready() {
    let tools = tools!();
    let objects = chart(&tools, "uninstall=true", RELEASES[2]).expect("the chart renders");
    assert!(find(&objects, "DaemonSet", "cwasi-agent").is_none());
    assert!(
        find(&objects, "RuntimeClass", "cwasi").is_none(),
        "no new pods of functions"
    );
    let set = find(&objects, "DaemonSet", "cwasi-installer").expect("what removes");
    let steps = set["spec"]["template"]["spec"]["initContainers"]
        .as_array()
        .expect("steps");
    let steps: Vec<&Value> = steps.iter().map(|step| &step["args"][0]).collect();
    assert_eq!(steps, ["unload", "uninstall"]);
}

#[test]
fn examples_run_in_the_runtime_class() {
    let tools = tools!();
    let objects =
        kustomization(&tools, &Path::new("manifests").join("examples")).expect("the examples build");
    let mut pods = 0;
    for object in &objects {
        let template = &object["spec"]["template"]["spec"];
        if template.is_object() {
            assert_eq!(
                template["runtimeClassName"], "cwasi",
                "{}",
                object["metadata"]["name"]
            );
            pods += 1;
        }
    }
    assert!(pods >= 3, "{pods}");
}
