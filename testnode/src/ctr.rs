//! Containers as `ctr`, containerd's own client, makes them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::error::{IoContext, on};
use crate::images::Image;
use crate::node::Node;
use crate::wait;
use crate::{Error, Result};

/// The containerd namespace of CRI.
const KUBERNETES: &str = "k8s.io";

impl Node {
    /// A `ctr` command for this node's containerd, in the containerd namespace `default`; run it with [`Node::ctr`], or inside
    /// of [`Node::namespaces`].
    #[must_use]
    pub fn ctr_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.containerd().bin.join("ctr"));
        command
            .arg("--address")
            .arg(self.layout().socket())
            .args(arguments);
        command
    }

    /// Runs `ctr` to its end, successful or not.
    ///
    /// # Errors
    /// It cannot be started, or does not end.
    pub fn ctr_output(&self, arguments: &[&str]) -> Result<Output> {
        self.namespaces()
            .run(|| wait::output(&mut self.ctr_command(arguments)))
    }

    /// Runs `ctr`, which must succeed, and gives what it prints.
    ///
    /// # Errors
    /// See [`Node::ctr_output`]; [`Error::Failed`] with everything that it printed.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        self.namespaces()
            .run(|| wait::succeed(&mut self.ctr_command(arguments)))
    }

    /// The id that [`Node::ctr_run`] gives a container: no other node has one of that id, as those of pods are random. Hosts
    /// with cgroup v1 have guests' v2 leaves in one place for all containerds, by id.
    #[must_use]
    pub fn ctr_id(&self, name: &str) -> String {
        format!("{}-{name}", self.name())
    }

    /// Runs a container by `ctr run`, in a cgroup of the node, to its end. A `command` takes the place of the whole command line
    /// of the image, entrypoint included; empty, the image's own is run.
    ///
    /// # Errors
    /// [`Error::Missing`] for a runtime that the node does not know.
    pub fn ctr_run(
        &self,
        handler: &str,
        flags: &[&str],
        image: &str,
        name: &str,
        command: &[&str],
    ) -> Result<Output> {
        let kind = &self.runtime(handler)?.kind;
        let id = self.ctr_id(name);
        self.know(&id);
        let cgroup = format!("{}/{id}", self.cgroup_parent());
        let head = ["run", "--runtime", kind, "--cgroup", &cgroup];
        self.ctr_output(&[&head, flags, &[image, &id], command].concat())
    }

    /// Imports an image for `ctr` and for CRI, and waits until CRI knows it.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(&self, image: &Image) -> Result<()> {
        let tar = self.scratch("image.tar");
        fs::write(&tar, image.tar()).action(on("write", &tar))?;
        let path = tar.display().to_string();
        let foreign = image.platform() != &crate::images::Platform::host();
        for namespace in ["default", KUBERNETES] {
            let mut arguments = vec!["--namespace", namespace, "image", "import"];
            if self.containerd().is_2() {
                // The transfer service of line 2 takes platforms that it can unpack only.
                arguments.push("--local");
            }
            if foreign {
                // Neither is it for this machine, nor are its layers of a root filesystem.
                arguments.extend(["--all-platforms", "--no-unpack"]);
            }
            arguments.push(&path);
            self.ctr(&arguments)?;
        }
        fs::remove_file(&tar).action(on("remove", &tar))?;
        wait::until(format!("{} in CRI's list", image.reference()), || {
            Ok(self.cri().has_image(image.reference())?.then_some(()))
        })
    }

    /// A path for a file of this moment, which no other call gets.
    fn scratch(&self, name: &str) -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.layout().dir.join(format!("{number}-{name}"))
    }

    /// A runtime by its handler.
    pub(crate) fn runtime(&self, handler: &str) -> Result<&crate::Runtime> {
        let found = self.runtimes().iter().find(|runtime| runtime.handler == handler);
        found.ok_or_else(|| Error::Missing {
            what: format!("the node has no runtime {handler}"),
            remedy: "start it with one".to_owned(),
        })
    }
}
