//! Limits of a container's memory and processor time hold for a guest.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cwasi_testnode::cri::Stream;
use cwasi_testnode::images::Form;
use cwasi_testnode::{Container, ContainerSpec, Node, PodSpec, Result, node_tests};

node_tests!(memory_is_limited, processor_time_is_limited);

const MIB: i64 = 1 << 20;

fn memory_is_limited(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("memory"))?;
    let limited = |name: &str, mib: &str| {
        let spec = ContainerSpec::new(name, &image).memory(128 * MIB);
        pod.run(&spec.args(["--allocate", mib]))
    };
    let fits = limited("fits", "32")?;
    assert_eq!(fits.wait()?, 0, "{}", fits.stderr()?);
    assert!(
        fits.stdout()?.contains("\"allocated_mib\":32"),
        "{}",
        fits.stdout()?
    );

    let exceeds = limited("exceeds", "512")?;
    // As one that the kernel kills for its memory, with a reason that the kernel does not give.
    assert_eq!(exceeds.wait()?, 137, "{}", exceeds.stderr()?);
    let reason = exceeds.stderr()?;
    assert!(reason.contains("memory"), "{reason}");

    // The machine has as much: it is the limit that stopped the other one.
    let spec = ContainerSpec::new("unlimited", &image).args(["--allocate", "512"]);
    let unlimited = pod.run(&spec)?;
    assert_eq!(unlimited.wait()?, 0, "{}", unlimited.stderr()?);
    Ok(())
}

/// Processor time that a process and its threads have had, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let path = Path::new("/proc").join(pid.to_string()).join("stat");
    let stat = fs::read_to_string(&path).expect("the process runs");
    // After the name, which is in parentheses: user time is the 12th field, system time the 13th.
    let fields = stat
        .rsplit(") ")
        .next()
        .expect("a name")
        .split(' ')
        .skip(11)
        .take(2);
    fields.map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// How often the kernel has held the container back.
fn throttled(container: &Container<'_>) -> u64 {
    let stats = container.cgroups().into_iter();
    let stats = stats.filter_map(|cgroup| fs::read_to_string(cgroup.join("cpu.stat")).ok());
    let counts = stats.filter_map(|stat| {
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "))?;
        line.parse::<u64>().ok()
    });
    counts.sum()
}

fn processor_time_is_limited(node: &Node) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new("cpu"))?;
    let spec = ContainerSpec::new("spin", &image).args(["--spin"]).cpu(200);
    let spin = pod.run(&spec)?;
    spin.says(Stream::Stdout, "\"args\"")?;
    let pid = spin.pid()?;
    let (before, start) = (ticks(pid), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let share = (ticks(pid) - before) as f64 / (start.elapsed().as_secs_f64() * 100.0);
    // A fifth of a processor, with room for a period more or less; without the limit it has a whole one, or its part of a
    // busy machine, and is never held back.
    assert!(share < 0.35, "it had {share:.2} of a processor");
    assert!(throttled(&spin) > 0, "it was never held back");
    Ok(())
}
