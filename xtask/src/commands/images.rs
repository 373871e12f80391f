//! `images`: the guest functions as container images, as OCI layouts and tars.

use crate::error::FileContext;
use crate::images::{Form, Image};
use crate::{Error, Result, paths, progress};
use cwasi_bench::report::{self, Format};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// The directory of the committed components.
pub const PREBUILT: &str = "bench/functions/prebuilt";

/// Writes the guest functions as container images, without a registry and without Docker.
///
/// Each image is an OCI layout (DIR/FORM/NAME), for tools that push to a registry, and a tar of it (DIR/FORM/NAME.tar),
/// for `ctr image import`. The same components give the same bytes. Images of the forms wasm and artifact have another
/// platform than the machine's and no root filesystem: import them with `--all-platforms --no-unpack` (containerd 1.6)
/// or `--local --all-platforms --no-unpack` (2.x). Pods run every form; an artifact names no entrypoint, so that the pod has
/// to (`command: ["/app.wasm"]`). `ctr run` itself refuses wasm on 1.6, and artifact on every version.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Functions, by the names of bench/functions/prebuilt [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Form to write; repeatable [default: all]
    #[arg(long = "form", value_enum)]
    forms: Vec<Form>,

    /// Where to write [default: `images` in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// How to print the results
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// An image that was written.
#[derive(Debug, Serialize)]
struct Written {
    name: String,
    form: Form,
    /// The name that the image is imported under.
    reference: String,
    /// The digest of the manifest.
    digest: String,
    /// `os/architecture`.
    platform: String,
    /// Bytes of the component.
    wasm_bytes: usize,
    /// Bytes in a registry.
    image_bytes: usize,
    layout: PathBuf,
    tar: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Missing`] for a function that is not there, [`Error::File`] when an image cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let written = write_all(args)?;
    match args.output {
        Format::Json => report::print_json(&written)?,
        Format::Table => println!("{}", table(&written)),
    }
    Ok(())
}

fn write_all(args: &Args) -> Result<Vec<Written>> {
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| paths::target_dir().join("images"));
    let known = known()?;
    let names = if args.names.is_empty() {
        &known
    } else {
        &args.names
    };
    let forms = if args.forms.is_empty() {
        &Form::ALL[..]
    } else {
        &args.forms
    };
    if let Some(name) = names.iter().find(|name| !known.contains(name)) {
        return Err(Error::Missing {
            what: format!("{PREBUILT} has no {name}"),
            remedy: format!("choose from {}", known.join(", ")),
        });
    }
    let mut written = Vec::new();
    for name in names {
        let _step = progress::step(format!("images of {name}"));
        let path = paths::root().join(PREBUILT).join(name).with_extension("wasm");
        let wasm = fs::read(&path).file("read", path)?;
        for form in forms {
            written.push(write(&out, name, *form, &wasm)?);
        }
    }
    Ok(written)
}

/// The names of the committed components, in order.
fn known() -> Result<Vec<String>> {
    let directory = paths::root().join(PREBUILT);
    let entries = fs::read_dir(&directory).file("read", &directory)?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            Some(
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".wasm")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    Ok(names)
}

fn write(out: &Path, name: &str, form: Form, wasm: &[u8]) -> Result<Written> {
    let image: Image = form.image(&form.reference(name), wasm)?;
    let layout = out.join(form.name()).join(name);
    let tar = layout.with_added_extension("tar");
    image.write_layout(&layout)?;
    fs::write(&tar, image.tar()).file("write", &tar)?;
    Ok(Written {
        name: name.to_owned(),
        form,
        reference: image.reference().to_owned(),
        digest: image.digest(),
        platform: image.platform().to_string(),
        wasm_bytes: wasm.len(),
        image_bytes: image.size(),
        layout,
        tar,
    })
}

fn table(written: &[Written]) -> impl std::fmt::Display {
    let rows = written.iter().map(|image| {
        [
            image.reference.clone(),
            image.platform.clone(),
            image.tar.display().to_string(),
            image.wasm_bytes.to_string(),
            image.image_bytes.to_string(),
        ]
    });
    report::table(["image", "platform", "tar", "component B", "image B"], 3, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_written_in_every_form() {
        let out = tempfile::tempdir().unwrap();
        let args = Args {
            names: Vec::new(),
            forms: Vec::new(),
            out: Some(out.path().to_owned()),
            output: Format::Json,
        };
        let written = write_all(&args).unwrap();
        assert_eq!(written.len(), known().unwrap().len() * Form::ALL.len());
        for image in written {
            assert!(image.layout.join("oci-layout").is_file(), "{image:?}");
            assert!(image.tar.is_file(), "{image:?}");
        }
    }

    #[test]
    fn unknown_functions_are_refused() {
        let args = Args {
            names: vec!["nosuch".to_owned()],
            forms: vec![Form::Rootfs],
            out: None,
            output: Format::Table,
        };
        let error = write_all(&args).unwrap_err().to_string();
        assert!(error.contains("nosuch") && error.contains("echo"), "{error}");
    }
}
