//! What the functions do.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::results::{Path, Sample};
use super::stage::{Stage, finish, outcome};
use crate::error::{IoContext, on};
use crate::{Error, Result};

/// Bytes of a message.
const PING_SIZE: &str = "64";
/// Round trips of a run.
const PING_COUNT: &str = "5000";
/// Bytes of a write.
const STREAM_SIZE: &str = "65536";
/// Bytes of a run.
const STREAM_BYTES: &str = "536870912";
/// Pictures of a run.
const PICTURES: &str = "5";
/// Width of a stored picture in pixels.
const WIDTH: &str = "320";

/// A set of functions that work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// `ping` and `echo`.
    Ping,
    /// `stream source` and `stream sink`.
    Stream,
    /// A picture from `source` through `resize` to `store`.
    Workflow,
}

#[derive(Deserialize)]
struct PingReport {
    p50_us: f64,
}

#[derive(Deserialize)]
struct StreamReport {
    gb_per_s: f64,
    checksum: String,
    ok: bool,
}

#[derive(Deserialize)]
struct SourceReport {
    bytes: u64,
    seconds: f64,
    p50_us: f64,
    sha256: String,
}

#[derive(Deserialize)]
struct StoreReport {
    sha256: String,
    file: PathBuf,
}

impl Job {
    /// All jobs.
    pub const ALL: [Self; 3] = [Self::Ping, Self::Stream, Self::Workflow];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Stream => "stream",
            Self::Workflow => "workflow",
        }
    }

    /// Runs the functions once, to the end of each.
    pub(super) fn run(self, stage: &mut Stage, path: Path) -> Result<Sample> {
        match self {
            Self::Ping => ping(stage, path),
            Self::Stream => stream(stage, path),
            Self::Workflow => workflow(stage, path),
        }
    }
}

fn ping(stage: &mut Stage, path: Path) -> Result<Sample> {
    let at = stage.endpoint(2, path)?;
    let [client_pod, _, server_pod] = stage.pods();
    let listen = at.listen.to_string();
    let echo = stage.server(
        "echo",
        server_pod,
        &[],
        "echo",
        &[&listen, "--connections", "1"],
        at,
    )?;
    let dial = at.dial.to_string();
    let args = [
        &dial,
        "--size",
        PING_SIZE,
        "--count",
        PING_COUNT,
        "--warmup",
        "200",
        "--nodelay",
    ];
    let report: PingReport = outcome(stage.guest("ping", client_pod, &[], "ping", &args)?)?;
    finish(echo)?;
    Ok(Sample {
        rtt_p50_us: Some(report.p50_us),
        ..Sample::default()
    })
}

fn stream(stage: &mut Stage, path: Path) -> Result<Sample> {
    let at = stage.endpoint(2, path)?;
    let [source_pod, _, sink_pod] = stage.pods();
    let listen = at.listen.to_string();
    let args = ["sink", &listen, "--connections", "1"];
    let sink = stage.server("stream-sink", sink_pod, &[], "stream", &args, at)?;
    let dial = at.dial.to_string();
    let args = ["source", &dial, "--size", STREAM_SIZE, "--bytes", STREAM_BYTES];
    let sent: StreamReport = outcome(stage.guest("stream-source", source_pod, &[], "stream", &args)?)?;
    let received: StreamReport = outcome(sink)?;
    if !(sent.ok && received.ok && sent.checksum == received.checksum) {
        return Err(Error::Data(format!(
            "the stream's checksum is {} at its source and {} at its sink",
            sent.checksum, received.checksum
        )));
    }
    Ok(Sample {
        gb_per_s: Some(received.gb_per_s),
        ..Sample::default()
    })
}

fn workflow(stage: &mut Stage, path: Path) -> Result<Sample> {
    let (resize_at, store_at) = (stage.endpoint(1, path)?, stage.endpoint(2, path)?);
    let [source_pod, resize_pod, store_pod] = stage.pods();
    let pictures = stage.scratch().join("pictures");
    fs::create_dir_all(&pictures).action(on("create", &pictures))?;
    let mounted = |host: &std::path::Path, guest: &str| {
        let mut mount = host.as_os_str().to_owned();
        mount.push("::");
        mount.push(guest);
        mount
    };

    let listen = store_at.listen.to_string();
    let out = mounted(&pictures, "/pictures");
    let store = stage.server(
        "store",
        store_pod,
        &["--dir".as_ref(), &out],
        "store",
        &[&listen, "--dir", "/pictures", "--connections", "1"],
        store_at,
    )?;
    let (listen, next) = (resize_at.listen.to_string(), store_at.dial.to_string());
    let args = [&listen, &next, "--width", WIDTH, "--connections", "1"];
    let resize = stage.server("resize", resize_pod, &[], "resize", &args, resize_at)?;
    let dial = resize_at.dial.to_string();
    let picture = stage.picture();
    let name = picture.file_name().unwrap_or_default().to_string_lossy();
    let folder = mounted(picture.parent().unwrap_or(picture), "/in::ro");
    let source: SourceReport = outcome(stage.guest(
        "source",
        source_pod,
        &["--dir".as_ref(), &folder],
        "source",
        &[&dial, "--image", &format!("/in/{name}"), "--count", PICTURES],
    )?)?;
    finish(resize)?;
    let stored: StoreReport = outcome(store)?;

    let file = pictures.join(stored.file.file_name().unwrap_or_default());
    let found = sha256(&fs::read(&file).action(on("read", &file))?);
    if [&source.sha256, &stored.sha256]
        .iter()
        .any(|told| **told != found)
    {
        return Err(Error::Data(format!(
            "the stored picture has sha256 {found}, source was told {}, store says {}",
            source.sha256, stored.sha256
        )));
    }
    Ok(Sample {
        rtt_p50_us: Some(source.p50_us),
        gb_per_s: Some(source.bytes as f64 / source.seconds / 1e9),
        sha256: Some(found),
        ..Sample::default()
    })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
