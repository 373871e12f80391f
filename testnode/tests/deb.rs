//! The Debian package on a machine that systemd booted: installed, upgraded under load, removed, purged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cwasi_testnode::machine::Machine;
use cwasi_testnode::{Error, Result, built, testing, wait};
use serde_json::Value;
use xtask::cargo_deb;
use xtask::commands::images::PREBUILT;

const FILES: [(&str, &str); 8] = [
    ("/etc/default/cwasi-agent", "644 root:root"),
    ("/usr/bin/containerd-shim-cwasi-v1", "755 root:root"),
    ("/usr/bin/cwasi-agent", "755 root:root"),
    ("/usr/bin/cwasi-installer", "755 root:root"),
    ("/usr/bin/cwasi-run", "755 root:root"),
    ("/usr/share/doc/cwasi/LICENSE-MIT", "644 root:root"),
    ("/usr/share/doc/cwasi/copyright", "644 root:root"),
    ("/usr/lib/systemd/system/cwasi-agent.service", "644 root:root"),
];

/// The package of the programs that cargo built beside this test.
fn pack() -> Result<PathBuf> {
    let mut built_in = PathBuf::new();
    for (program, package) in [
        ("cwasi-agent", "cwasi-agent"),
        ("cwasi-run", "cwasi-shim"),
        ("cwasi-installer", "cwasi-installer"),
        ("containerd-shim-cwasi-v1", "cwasi-shim --features containerd"),
    ] {
        built(program, package)?
            .parent()
            .expect("a file has a directory")
            .clone_into(&mut built_in);
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deb");
    Ok(cargo_deb::pack(
        &built_in,
        &out,
        "1",
        cargo_deb::Compression::Fast,
    )?)
}

/// The state of the agent, as it tells itself.
fn status(machine: &Machine) -> Result<Value> {
    let text = machine.run("cwasi-agent status -o json || true")?;
    serde_json::from_str(&text).map_err(|error| Error::Output {
        program: "cwasi-agent status".to_owned(),
        detail: format!("{error}: {text}"),
    })
}

/// Everything with our name, but for the packages themselves.
fn files(machine: &Machine) -> Result<BTreeSet<String>> {
    let found = machine.run("find /etc /opt /run /sys/fs/bpf /usr /var/cache /var/lib -name '*cwasi*'")?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Starts a function that talks to another one for as long as it is let, each a service of its own.
fn talk(machine: &Machine) -> Result<()> {
    let guests = xtask::paths::root().join(PREBUILT);
    for (guest, arguments) in [
        ("echo", "127.0.0.1:7000"),
        ("ping", "127.0.0.1:7000 --size 1000 --count 100000000"),
    ] {
        let path = format!("/root/packages/{guest}.wasm");
        machine.copy(&guests.join(guest).with_extension("wasm"), &path)?;
        machine.run(&format!(
            "systemd-run --quiet --unit {guest} cwasi-run {path} {arguments}"
        ))?;
        wait::until(format!("{guest} is a function"), || {
            Ok(machine
                .run("cwasi-agent functions")?
                .contains(guest)
                .then_some(()))
        })?;
    }
    // The server listens before its peer connects, or the peer ends and says so.
    talks_on(machine)
}

fn talks_on(machine: &Machine) -> Result<()> {
    let states = machine.run("systemctl is-active echo ping")?;
    assert_eq!(states, "active\nactive\n");
    Ok(())
}

fn redirected(machine: &Machine) -> Result<u64> {
    let status = status(machine)?;
    let sent = &status["traffic"]["redirect_messages"];
    sent.as_u64().ok_or_else(|| Error::Output {
        program: "cwasi-agent status".to_owned(),
        detail: status.to_string(),
    })
}

fn moves_on(machine: &Machine, from: u64) -> Result<u64> {
    wait::until("the kernel moves messages", || {
        let now = redirected(machine)?;
        Ok((now > from + 100).then_some(now))
    })
}

fn lifecycle(machine: &Machine, package: &Path) -> Result<()> {
    let before_all = files(machine)?;
    machine.run("mkdir /root/packages")?;
    machine.copy(package, "/root/packages/1.deb")?;
    machine.run(
        "cd /root/packages; dpkg-deb -R 1.deb 2; sed -i 's/^Version: .*/&+next/' 2/DEBIAN/control; dpkg-deb -Znone -b 2 2.deb",
    )?;

    // Installed, it runs, as the least of roots.
    machine.run("dpkg -i /root/packages/1.deb")?;
    for (file, expected) in FILES {
        let found = machine.run(&format!("stat -c '%a %U:%G' {file}"))?;
        assert_eq!(found.trim(), expected, "{file}");
    }
    let configuration = machine.run("dpkg-query -W -f '${Conffiles}' cwasi")?;
    assert_eq!(
        configuration.split_whitespace().step_by(2).collect::<Vec<_>>(),
        ["/etc/default/cwasi-agent"]
    );
    assert_eq!(machine.run("systemctl is-enabled cwasi-agent")?.trim(), "enabled");
    let verified = machine.output("systemd-analyze verify cwasi-agent.service")?;
    assert!(verified.status.success(), "{}", wait::text(&verified.stderr));
    wait::until("the agent serves", || {
        Ok(machine
            .output("cwasi-agent status")?
            .status
            .code()
            .filter(|code| *code < 2))
    })?;
    let shown = status(machine)?;
    assert_eq!(shown["degraded"], Value::Array(Vec::new()), "{shown}");
    let limits = machine
        .run("grep -E 'CapBnd|CapEff|NoNewPrivs' /proc/$(systemctl show -P MainPID cwasi-agent)/status")?;
    // CAP_NET_ADMIN (12), CAP_PERFMON (38), CAP_BPF (39).
    let three = format!("{:016x}", (1_u64 << 12) | (1 << 38) | (1 << 39));
    assert_eq!(limits.matches(&three).count(), 2, "{limits}");
    assert!(limits.contains("NoNewPrivs:\t1"), "{limits}");

    // An upgrade restarts it, and what it moves goes on; what the operator wrote stays.
    talk(machine)?;
    let before = moves_on(machine, 0)?;
    machine.run("echo CWASI_BUDGET_BYTES=1048576 >> /etc/default/cwasi-agent")?;
    let first = machine.run("systemctl show -P MainPID cwasi-agent")?;
    machine.run("dpkg -i /root/packages/2.deb")?;
    assert_ne!(machine.run("systemctl show -P MainPID cwasi-agent")?, first);
    wait::until("the next agent serves", || {
        Ok(machine
            .output("cwasi-agent status")?
            .status
            .code()
            .filter(|code| *code == 0))
    })?;
    moves_on(machine, before)?;
    talks_on(machine)?;
    assert!(machine.run("cwasi-agent status")?.contains("1.0 MiB"));

    // Removed, it is out of the kernel; functions go on by TCP, and the configuration stays.
    machine.run("dpkg -r cwasi")?;
    talks_on(machine)?;
    assert_eq!(machine.run("find /sys/fs/bpf -mindepth 1 -name '*cwasi*'")?, "");
    assert_eq!(
        machine.output("systemctl is-active cwasi-agent")?.stdout,
        b"inactive\n"
    );
    assert!(
        machine
            .run("cat /etc/default/cwasi-agent")?
            .ends_with("CWASI_BUDGET_BYTES=1048576\n")
    );
    machine.run("systemctl stop ping echo; dpkg -P cwasi")?;
    let left = files(machine)?;
    let left: Vec<&String> = left.difference(&before_all).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_package_is_installed_upgraded_removed_and_purged() {
    if let Some(reason) = Machine::missing() {
        return testing::skipped(&reason);
    }
    let package = match pack() {
        Err(error @ (Error::Missing { .. } | Error::Build(xtask::Error::Missing { .. }))) => {
            return testing::skipped(&error);
        }
        other => other.unwrap_or_else(|error| panic!("{error}")),
    };
    // A panic here drops the machine, which then shows its log.
    let machine = Machine::boot().unwrap_or_else(|error| panic!("{error}"));
    lifecycle(&machine, &package).unwrap_or_else(|error| panic!("{error}"));
}
