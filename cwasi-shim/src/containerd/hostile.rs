//! What containerd hands over comes from images and from whoever makes pods. Whatever it says, it is used, or refused with one clear
//! line.

use std::fs;
use std::path::Path;

use containerd_shim::protos::ttrpc;
use cwasi_client::protocol::FunctionSpec;
use oci_spec::image::{ImageIndex, ImageManifest};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::bundle::{ALLOW_NET, Bundle, HTTP_ADDRESS, NAME, guest_config};
use super::embed::specification::{beside, of_functions};
use super::embed::terms::{Terms, check_resources};
use super::error::ShimError;
use super::function::describe;
use super::image;

/// A configuration in which everything is present that the shim looks at.
fn config() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "web",
        "process": {
            "user": { "uid": 0, "gid": 0, "additionalGids": [1] }, "cwd": "/work", "args": ["/app.wasm", "x"],
            "env": ["A=b", "PATH=/bin", "CWASI_HTTP_ADDR=0.0.0.0:1"],
            "capabilities": { "bounding": ["CAP_CHOWN"] }, "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 }],
            "oomScoreAdj": 2, "noNewPrivileges": true
        },
        "mounts": [{ "destination": "/data", "type": "bind", "source": "/s", "options": ["rbind", "ro"] }],
        "linux": {
            "cgroupsPath": "/kubepods/pod1/c1",
            "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/run/netns/a" }],
            "resources": {
                "memory": { "limit": 67_108_864 }, "cpu": { "shares": 2, "quota": -1, "period": 100_000 },
                "unified": { "cpu.max": "1 2" }, "devices": [{ "allow": false, "access": "rwm" }]
            }
        },
        "annotations": {
            "io.kubernetes.cri.sandbox-id": "s1",
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
            "io.kubernetes.cri.container-name": "web",
            "io.kubernetes.cri.container-type": "container"
        }
    })
}

fn manifest() -> Value {
    let digest = format!("sha256:{:064x}", 1);
    let descriptor =
        |kind: &str| json!({ "mediaType": kind, "digest": digest, "size": 1, "annotations": { "a": "b" } });
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor("application/wasm"), descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json")]
    })
}

/// Every place in a document, as a JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                places(field, &format!("{at}/{}", escaped(key)), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Strings as nobody sensible gives them.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any::<String>(),
        2 => "[ -~]{0,40}",
        1 => "[ -~]{0,4}".prop_map(|text| text.repeat(3000)),
        2 => prop::sample::select(vec![
            "", " ", "\n", "\0", "\u{1b}[2J", "\u{202e}", "/", "..", "../../../etc/passwd", "all", "0.0.0.0/0", "::/0",
            "[::]:0", "0.0.0.0:65536", "10.0.0.1:80,", ",,,", "true", "-1", "18446744073709551616", "PATH=", "=", "a:b:c",
            "slice:\u{e4}:x",
        ]).prop_map(str::to_owned),
    ]
}

/// Values of all kinds.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A document in which some places hold something else.
fn changed(document: fn() -> Value) -> impl Strategy<Value = Value> {
    let change = (any::<prop::sample::Index>(), value());
    prop::collection::vec(change, 0..4).prop_map(move |changes| {
        let mut document = document();
        for (place, value) in changes {
            let mut found = Vec::new();
            places(&document, "", &mut found);
            // The document itself is replaced too, but rarely: nothing is left to look at then.
            if let Some(place) = document.pointer_mut(place.get(found.as_slice()).as_str()) {
                *place = value;
            }
        }
        document
    })
}

fn load(config: &Value) -> Result<Bundle, ShimError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Bundle::load(dir.path())
}

/// Checks that a refusal is what whoever asked for the container can read.
fn is_clear(error: ShimError) {
    let ttrpc::Error::RpcStatus(status) = ttrpc::Error::from(error) else {
        panic!("no status");
    };
    let message = status.message();
    assert!(
        !message.is_empty() && !message.contains(char::is_control),
        "{message}"
    );
    assert!(message.chars().count() < 25_000, "{} bytes", message.len());
}

/// What the agent is told of the container, before it is sent.
fn described(bundle: &Bundle) -> FunctionSpec {
    let mut spec = describe(bundle, "k8s.io", "c1", 0, Path::new("/sys/fs/cgroup/c1"));
    spec.fit_labels();
    spec
}

/// Everything that is made of a bundle before there is a process.
fn use_up(bundle: &Bundle) {
    let spec = &bundle.spec;
    let _ = (bundle.rootfs(), bundle.is_sandbox(), bundle.wants_systemd());
    if let Err(error) = guest_config(spec) {
        is_clear(error);
    }
    described(bundle);
    let terms = Terms::of("web", spec);
    assert!(terms.admit(&terms).is_ok());
    let cgroup = beside(&bundle.cgroups_path().unwrap_or_default(), "functions");
    let _ = of_functions(spec, &cgroup);
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if let Some(Err(error)) = resources.map(check_resources) {
        is_clear(error);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_configuration_is_used_or_refused(config in changed(config)) {
        match load(&config) {
            Ok(bundle) => use_up(&bundle),
            Err(error) => is_clear(error),
        }
    }

    #[test]
    fn no_annotation_costs_a_function_its_registration(
        own in prop::collection::btree_map("[a-z./-]{0,20}|[ -~]{0,20}|k{300,400}", text(), 0..80),
        known in prop::array::uniform3(prop::option::of(text())),
    ) {
        let mut config = config();
        for (key, value) in own {
            config["annotations"][format!("cwasi.dev/{key}")] = json!(value);
        }
        for (key, value) in [NAME, ALLOW_NET, HTTP_ADDRESS].into_iter().zip(known) {
            if let Some(value) = value {
                config["annotations"][key] = json!(value);
            }
        }
        let bundle = load(&config).unwrap();
        match guest_config(&bundle.spec) {
            // What the agent would refuse is refused before.
            Ok(_) => prop_assert_eq!(described(&bundle).check(), Ok(())),
            Err(error) => is_clear(error),
        }
    }

    #[test]
    fn every_manifest_is_used_or_refused(document in changed(manifest)) {
        let text = document.to_string();
        if let Ok(manifest) = serde_json::from_str::<ImageManifest>(&text)
            && let Err(error) = image::only_wasm(manifest.layers())
        {
            is_clear(error);
        }
        if let Ok(index) = serde_json::from_str::<ImageIndex>(&text) {
            let _ = image::choose(index.manifests());
        }
    }
}

#[test]
fn names_that_the_agent_would_refuse_are_refused() {
    for (name, taken) in [
        ("web-1", true),
        ("a b", false),
        ("", false),
        ("\u{fc}ber", false),
        ("a\nb", false),
    ] {
        let mut config = config();
        config["annotations"][NAME] = json!(name);
        let found = guest_config(&load(&config).unwrap().spec);
        match found {
            Ok(config) => assert!(taken && config.name == name, "{name:?}"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !taken && error.starts_with("annotation cwasi.dev/name: "),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn modules_without_end_are_not_read() {
    let sparse = tempfile::tempfile().unwrap();
    sparse.set_len(1 << 40).unwrap();
    let error = super::compile::compile("/app.wasm", sparse, false).unwrap_err();
    assert!(
        matches!(error, ShimError::TooLarge { bytes, .. } if bytes == 1 << 40),
        "{error}"
    );
    let mut huge = manifest();
    huge["layers"][0]["size"] = json!(1_u64 << 40);
    let manifest: ImageManifest = serde_json::from_value(huge).unwrap();
    assert!(matches!(
        image::only_wasm(manifest.layers()),
        Err(ShimError::TooLarge { .. })
    ));
}
