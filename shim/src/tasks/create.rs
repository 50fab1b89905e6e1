// SPDX-License-Identifier: Apache-2.0
//! From a bundle to a task.  Blocking; undoes everything if it fails.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use containerd_shim_protos::{ttrpc::Code, types::mount::Mount as MountMessage};
use oci_spec::runtime::Spec;
use trine::{
    ContainerSpec, Error, PodOptions,
    oci::{self, Translation},
    policy::Source,
};

use super::{Failure, Registry, machine::Machine, sandbox::Sandbox, task::NewTask};
use crate::{
    events::StdioPaths,
    host::{Guest, Pod, Rootfs},
    ids, log,
    mounts::{self, Mount},
    process::ProcessId,
    record::TaskRecord,
    start::SANDBOX_ID,
    stdio,
};

/// Annotation that tells sandboxes from containers.
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// Log of the VMs and the I/O process, in the bundle of the pod's first container.
const LOG_FILE: &str = "trine.log";

/// What containerd asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CreateRequest {
    /// Container id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Mounts that make its root file system; none if it is there already.
    pub rootfs: Vec<MountMessage>,
    /// Streams of its first process.
    pub stdio: StdioPaths,
    /// Checkpoint to begin from.
    pub checkpoint: String,
}

/// What a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The pod itself.
    Sandbox,
    /// A container of a pod whose sandbox exists.
    Member,
    /// A container that has the pod to itself, or makes it.
    Alone,
}

pub(super) fn create(registry: &Registry, request: CreateRequest) -> Result<NewTask, Failure> {
    ids::check("container id", &request.id)?;
    if !request.checkpoint.is_empty() {
        return Err(Failure::unimplemented("restoring a checkpoint", "create the container anew"));
    }
    let spec = oci::load_spec(&request.bundle.join("config.json"))?;
    let mut creation = Creation { registry, request, record: TaskRecord::default(), joined: false };
    let created = match kind(&spec) {
        Kind::Sandbox => creation.sandbox(&spec),
        kind => creation.container(&spec, kind),
    };
    match created {
        Ok((guest, memory_bytes)) => Ok(creation.finish(guest, memory_bytes)),
        Err(failure) => {
            creation.undo();
            Err(failure)
        }
    }
}

fn kind(spec: &Spec) -> Kind {
    let annotation =
        |key: &str| spec.annotations().as_ref().and_then(|all| all.get(key)).map(String::as_str);
    match (annotation(CONTAINER_TYPE), annotation(SANDBOX_ID)) {
        (Some("sandbox"), _) => Kind::Sandbox,
        (Some("container"), Some(_)) => Kind::Member,
        _ => Kind::Alone,
    }
}

/// A creation under way.
struct Creation<'a> {
    registry: &'a Registry,
    request: CreateRequest,
    record: TaskRecord,
    /// The pod was joined.
    joined: bool,
}

/// A guest and its RAM in bytes.
type Created = (Arc<dyn Guest>, Option<u64>);

impl Creation<'_> {
    fn sandbox(&mut self, spec: &Spec) -> Result<Created, Failure> {
        let cgroup = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().as_ref())
            .map(|path| path.to_string_lossy().into_owned())
            .filter(|path| !path.is_empty());
        let has_cgroup = cgroup.is_some();
        let options = PodOptions {
            network_namespace: oci::network(spec).namespace_path(),
            narrowing: oci::narrowing(spec)?,
            cgroup,
            ..self.pod_options()
        };
        let pod = self.join(|registry| registry.join_pod(options))?;

        let sandbox = Arc::new(Sandbox::new(&self.request.id, Arc::clone(&pod), has_cgroup));
        self.record.io = ProcessId::of(pod.io_pid()).ok();
        self.record.cgroups = sandbox.cgroup_paths().into_iter().map(|(_, path)| path).collect();
        self.save()?;
        watch_pod(pod, &sandbox)?;
        Ok((sandbox, None))
    }

    fn container(&mut self, spec: &Spec, kind: Kind) -> Result<Created, Failure> {
        let settings = &self.registry.settings;
        let translation = oci::container(spec, &self.request.bundle, &settings.defaults)?;
        let Translation { config, volumes, mut process, limits, network, narrowing, warnings } =
            translation;
        for warning in warnings {
            log::warn(format!("container {:?}: {warning}", self.request.id));
        }
        process.terminal = self.request.stdio.terminal;
        let streams = stdio::streams(&self.request.stdio)?;

        let pod = if kind == Kind::Member {
            self.join(|registry| {
                registry.join_existing_pod().ok_or_else(|| Error::WrongState {
                    action: "create a container",
                    what: "its pod".to_owned(),
                    state: "gone",
                })
            })?
        } else {
            let options =
                PodOptions { network_namespace: network.namespace_path(), ..self.pod_options() };
            self.join(|registry| registry.join_pod(options))?
        };
        if kind == Kind::Alone {
            self.record.io = ProcessId::of(pod.io_pid()).ok();
            self.save()?;
        }

        let rootfs = self.rootfs(spec)?;
        let image = self.registry.host.image(&rootfs)?;
        let memory_bytes = limits.memory_bytes;
        let guest = pod.create_container(ContainerSpec {
            id: self.request.id.clone(),
            image,
            config,
            volumes,
            process,
            stdio: streams,
            limits,
            narrowing,
        })?;
        self.record.vmm = ProcessId::of(guest.pid()).ok();
        self.record.cgroups = guest.cgroup_paths().into_iter().map(|(_, path)| path).collect();
        if let Err(failure) = self.save() {
            // Undone here, for the caller does not have it yet.
            let _ = guest.kill("", 9, true);
            let _ = guest.delete("");
            return Err(failure);
        }
        Ok((guest, Some(memory_bytes)))
    }

    fn pod_options(&self) -> PodOptions {
        PodOptions {
            name: self.request.id.clone(),
            libexec: self.registry.settings.libexec.clone(),
            policy: self.registry.settings.policy.clone().map(Source::File),
            audit: self.registry.settings.audit.clone(),
            landlock: self.registry.settings.landlock,
            system_calls: self.registry.settings.system_calls,
            log: Some(self.request.bundle.join(LOG_FILE)),
            ..PodOptions::default()
        }
    }

    fn join(
        &mut self,
        join: impl FnOnce(&Registry) -> Result<Arc<dyn Pod>, Error>,
    ) -> Result<Arc<dyn Pod>, Failure> {
        let pod = join(self.registry)?;
        self.joined = true;
        Ok(pod)
    }

    /// Finds the root file system, and mounts it only if the image builder cannot read its mounts.
    fn rootfs(&mut self, spec: &Spec) -> Result<Rootfs, Failure> {
        let mounts: Vec<_> = self.request.rootfs.iter().map(mount).collect();
        if mounts.is_empty() {
            let path = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
            return Ok(Rootfs::Directory(self.request.bundle.join(path)));
        }
        if self.registry.host.reads_mounts(&mounts) {
            return Ok(Rootfs::Mounts(mounts));
        }
        let target = self.request.bundle.join("rootfs");
        // Written down before it is done, for `delete`.
        self.record.mounted = true;
        self.save()?;
        std::fs::create_dir_all(&target)
            .and_then(|()| mounts::mount_all(&mounts, &target))
            .map_err(|error| {
                Error::host(format!("mount the rootfs on {}", target.display()), error)
            })?;
        Ok(Rootfs::Directory(target))
    }

    fn save(&self) -> Result<(), Failure> {
        self.record.save(&self.request.bundle).map_err(|error| {
            let bundle = self.request.bundle.display();
            Failure::new(Code::INTERNAL, format!("cannot write the record in {bundle}: {error}"))
        })
    }

    fn finish(self, guest: Arc<dyn Guest>, memory_bytes: Option<u64>) -> NewTask {
        let CreateRequest { id, bundle, rootfs, stdio, .. } = self.request;
        let bundle_text = bundle.to_string_lossy().into_owned();
        let machine = Machine::new(&id, &bundle_text, rootfs, stdio, guest.pid());
        NewTask { id, bundle, guest, machine, record: self.record, memory_bytes }
    }

    fn undo(self) {
        if self.record.mounted
            && let Err(error) = mounts::unmount_all(&self.request.bundle.join("rootfs"))
        {
            log::warn(format!("the rootfs of {:?} stays mounted: {error}", self.request.id));
        }
        if self.joined {
            self.registry.leave_pod();
        }
        TaskRecord::remove(&self.request.bundle);
    }
}

/// Ends the sandbox when the I/O process ends; the library reports the ends of the containers.
fn watch_pod(pod: Arc<dyn Pod>, sandbox: &Arc<Sandbox>) -> Result<(), Failure> {
    let sandbox = Arc::downgrade(sandbox);
    thread::Builder::new()
        .name("pod-watch".to_owned())
        .spawn(move || {
            pod.wait();
            if let Some(sandbox) = sandbox.upgrade() {
                sandbox.pod_ended();
            }
        })
        .map_err(|error| Error::host("start a thread", error))?;
    Ok(())
}

fn mount(message: &MountMessage) -> Mount {
    Mount {
        kind: message.type_.clone(),
        source: PathBuf::from(&message.source),
        options: message.options.clone(),
    }
}
