//! Shared parts of the tests that hold a whole session with the guard.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::File;

use edgelat_guard::placement::TargetsOn;
use edgelat_guard::protocol::{
    ImageId, MappedImage, OnSignal, PlanId, PlanOptions, Reply, Request, Returns, TargetId,
};
use edgelat_guard::{Asked, Guard, Limits, Line};

/// One function, forks followed, by the guard's own choice of a route.
pub(crate) const OPTIONS: PlanOptions = PlanOptions {
    functions: 1,
    frames: 64,
    max_map_bytes: 4 << 20,
    returns: Returns::Ret,
    route: None,
    follow_forks: true,
    on_signal: OnSignal::Any,
    targets_on: TargetsOn::Any,
    python: None,
    max_cost_ppm: None,
    sample: false,
    pin: false,
};

/// A guard for a process that admits only such plans.
pub(crate) fn guard(pid: i32, options: &PlanOptions) -> Guard {
    let limits = Limits {
        plans: 1,
        frames: options.frames,
        max_map_bytes: options.max_map_bytes,
        returns: options.returns,
        route: options.route,
        follow_forks: options.follow_forks,
        on_signal: Some(options.on_signal),
        targets_on: options.targets_on,
        max_cost_ppm: options.max_cost_ppm,
        sample: options.sample,
        python: options.python.is_some(),
        pin: options.pin,
        allow_ptrace: false,
    };
    Guard::new(vec![Asked::process(pid, Some(limits))])
}

pub(crate) fn call(line: &mut Line, request: Request) -> Reply {
    line.call(&request).unwrap_or_else(|error| panic!("{request:?}: {error}")).0
}

pub(crate) fn open_target(line: &mut Line, pid: i32) -> TargetId {
    match call(line, Request::OpenTarget { pid, allow_ptrace: false }) {
        Reply::Target { target, .. } => target,
        other => panic!("{other:?}"),
    }
}

/// The executable of a target, as soon as it is `wanted`: until it has executed its program a child
/// still runs its parent's.
pub(crate) fn open_executable(
    line: &mut Line,
    target: TargetId,
    wanted: impl Fn(&MappedImage) -> bool,
) -> (ImageId, File) {
    loop {
        let Reply::Images { images, .. } = call(line, Request::ListImages { target, from: None }) else {
            panic!()
        };
        if let Some(image) = images.iter().find(|image| image.executable && wanted(image)) {
            let (reply, mut fds) = line.call(&Request::OpenImage { target, index: image.index }).unwrap();
            let Reply::Image { image } = reply else { panic!("{reply:?}") };
            return (image, File::from(fds.remove(0)));
        }
    }
}

pub(crate) fn begin(line: &mut Line, target: TargetId, options: PlanOptions) -> PlanId {
    match call(line, Request::BeginPlan { target, options }) {
        Reply::Plan { plan } => plan,
        other => panic!("{other:?}"),
    }
}
