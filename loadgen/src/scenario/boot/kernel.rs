//! The control domain's kernel: it is notified of new backends through one watch, and connects each.

use std::rc::{Rc, Weak};

use xenstored::protocol::Operation;

use super::{Machine, state, switch};
use crate::client::{Client, Watch, words};
use crate::trouble::Result;
use crate::wrong;

const BACKENDS: &str = "/local/domain/0/backend";

/// Runs Linux's xenbus: for each event of its watch, checks whether the device exists.
pub(super) async fn run(machine: Weak<Machine>, client: Client) -> Result<()> {
    let watch = client.watch(BACKENDS, "backends").await?;
    loop {
        let path = watch.next().await;
        if path == BACKENDS {
            wrong!(
                "the kernel gets an event of {BACKENDS} and not of a device, which Linux ignores"
            );
        }
        let Some(device) = device(&path) else { continue };
        let there = client.request(Operation::Directory, 0, &words(&[&device])).await?.is_ok();
        let Some(machine) = machine.upgrade() else { return Ok(()) };
        let known = machine.backends.borrow().contains_key(&device);
        if there && !known {
            machine.backends.borrow_mut().insert(device.clone(), None);
            let (client, weak) = (client.clone(), Rc::downgrade(&machine));
            machine.stage.spawn(async move {
                let watch = connect(client, &device).await?;
                if let Some(machine) = weak.upgrade()
                    && let Some(place) = machine.backends.borrow_mut().get_mut(&device)
                {
                    *place = watch;
                }
                Ok(())
            });
        } else if !there {
            let gone = machine.backends.borrow_mut().remove(&device);
            if let Some(Some(frontend)) = gone {
                frontend.remove().await?;
            }
        }
    }
}

/// Returns the backend to which a path below [`BACKENDS`] belongs: `<class>/<domid>/<number>`.
fn device(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix(BACKENDS)?.strip_prefix('/')?.splitn(4, '/');
    let (class, domid, number) = (parts.next()?, parts.next()?, parts.next()?);
    Some(format!("{BACKENDS}/{class}/{domid}/{number}"))
}

/// Connects a backend, as the bus and then xen-blkback or xen-netback do. Returns the watch on the frontend's state,
/// which lives as long as the device.
async fn connect(client: Client, back: &str) -> Result<Option<Watch>> {
    let is_disk = back.contains("/vbd/");
    client.try_read(&format!("{back}/state")).await?;
    client.try_read(&format!("{back}/frontend-id")).await?;
    let front = client.try_read(&format!("{back}/frontend")).await?;
    // A console has no driver here, and no client waits for it, so its backend may have been removed by now.
    let Some(front) = front.filter(|_| !back.contains("/console/")) else { return Ok(None) };
    let other = format!("{front}/state");
    let events = client.watch(&other, &other).await?;
    client
        .transact(async |tx| {
            for feature in features(is_disk) {
                client.write(tx, &format!("{back}/{feature}"), "1").await?;
            }
            Ok(())
        })
        .await?;
    // Written by the hotplug script once the device exists.
    let ready = format!("{back}/{}", if is_disk { "physical-device" } else { "hotplug-status" });
    let plugged = client.watch(&ready, &ready).await?;
    switch(&client, back, state::INIT_WAIT).await?;
    while client
        .request(Operation::Read, 0, &words(&[&ready]))
        .await?
        .unwrap_or_default()
        .is_empty()
    {
        plugged.next().await;
    }
    plugged.remove().await?;
    let ready = if is_disk { state::INITIALISED } else { state::CONNECTED };
    while client.read(0, &other).await?.as_str() < ready {
        events.next().await;
    }
    for key in ["event-channel", "protocol"].iter().chain(rings(is_disk)) {
        client.read(0, &format!("{front}/{key}")).await?;
    }
    switch(&client, back, state::CONNECTED).await?;
    Ok(Some(events))
}

fn features(is_disk: bool) -> &'static [&'static str] {
    if is_disk {
        &[
            "feature-flush-cache",
            "feature-discard",
            "feature-persistent",
            "max-ring-page-order",
            "feature-max-indirect-segments",
            "multi-queue-max-queues",
        ]
    } else {
        &[
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "feature-rx-copy",
            "feature-split-event-channels",
            "multi-queue-max-queues",
            "feature-ctrl-ring",
        ]
    }
}

/// Returns the keys in which a frontend publishes its rings.
pub(super) fn rings(is_disk: bool) -> &'static [&'static str] {
    if is_disk {
        &["ring-ref", "feature-persistent"]
    } else {
        &[
            "tx-ring-ref",
            "rx-ring-ref",
            "request-rx-copy",
            "feature-rx-notify",
            "feature-sg",
            "feature-gso-tcpv4",
        ]
    }
}
