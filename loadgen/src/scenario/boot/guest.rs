//! A booting Linux guest.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::kernel::rings;
use super::{DEVICES, frontend, state, switch};
use crate::client::{Client, words};
use crate::trouble::Result;
use crate::wrong;

/// Boots: from the first use of xenstore to connected devices.
pub(super) async fn run(client: Client, domid: Domid) -> Result<()> {
    if client.read(0, "domid").await? != domid.to_string() {
        wrong!("domain {domid} reads another's domid");
    }
    client.must(Operation::ResetWatches, 0, b"\0").await?;
    for path in ["control/shutdown", "control/sysrq", "memory/target", "cpu", "device"] {
        client.watch(path, path).await?;
    }
    for path in ["memory/target", "memory/static-max", "cpu/0/availability", "cpu/1/availability"] {
        client.read(0, path).await?;
    }
    for path in ["name", "vm", "control/platform-feature-multiprocessor-suspend"] {
        client.read(0, path).await?;
    }
    for name in ["feature-poweroff", "feature-reboot", "feature-suspend"] {
        client.write(0, &format!("control/{name}"), "1").await?;
    }
    client.must(Operation::Directory, 0, &words(&["device"])).await?;
    for device in DEVICES {
        let class = format!("device/{}", device.0);
        let numbers = client.must(Operation::Directory, 0, &words(&[&class])).await?;
        if numbers != words(&[&device.1.to_string()]) {
            wrong!("{class} of {domid} has {:?}", String::from_utf8_lossy(&numbers));
        }
    }
    let [disk, network] = DEVICES.map(|device| connect(&client, domid, device));
    both(disk, network).await
}

/// Waits until both futures are done.
async fn both(
    first: impl Future<Output = Result<()>>,
    second: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let mut done = [false; 2];
    poll_fn(|context| {
        if !done[0]
            && let Poll::Ready(result) = first.as_mut().poll(context)
        {
            result?;
            done[0] = true;
        }
        if !done[1]
            && let Poll::Ready(result) = second.as_mut().poll(context)
        {
            result?;
            done[1] = true;
        }
        if done == [true; 2] { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Connects a frontend, as xen-blkfront and xen-netfront do.
async fn connect(client: &Client, domid: Domid, device: (&'static str, u32)) -> Result<()> {
    let is_disk = device.0 == "vbd";
    let front = frontend(domid, device);
    client.must(Operation::Directory, 0, &words(&[&front])).await?;
    client.read(0, &format!("{front}/state")).await?;
    client.read(0, &format!("{front}/backend-id")).await?;
    let back = client.read(0, &format!("{front}/backend")).await?;
    let other = format!("{back}/state");
    let events = client.watch(&other, &other).await?;
    while client.read(0, &other).await?.as_str() < state::INIT_WAIT {
        events.next().await;
    }
    for key in offers(is_disk) {
        client.try_read(&format!("{back}/{key}")).await?;
    }
    client
        .transact(async |tx| {
            for key in ["event-channel", "protocol"].iter().chain(rings(is_disk)) {
                client.write(tx, &format!("{front}/{key}"), "8").await?;
            }
            Ok(())
        })
        .await?;
    let prepared = if is_disk { state::INITIALISED } else { state::CONNECTED };
    switch(client, &front, prepared).await?;
    while client.read(0, &other).await? != state::CONNECTED {
        events.next().await;
    }
    for key in properties(is_disk) {
        client.try_read(&format!("{back}/{key}")).await?;
    }
    if is_disk {
        switch(client, &front, state::CONNECTED).await?;
    }
    Ok(())
}

/// Returns the keys that a frontend reads before it makes its rings; some do not exist.
fn offers(is_disk: bool) -> &'static [&'static str] {
    if is_disk {
        &["max-ring-page-order", "multi-queue-max-queues", "feature-persistent", "discard-enable"]
    } else {
        &["multi-queue-max-queues", "feature-split-event-channels", "feature-ctrl-ring", "mac"]
    }
}

/// Returns the keys that a frontend finally reads from its backend; some do not exist.
fn properties(is_disk: bool) -> &'static [&'static str] {
    if is_disk {
        &[
            "sectors",
            "info",
            "sector-size",
            "physical-sector-size",
            "feature-flush-cache",
            "feature-barrier",
            "feature-discard",
            "feature-persistent",
            "feature-max-indirect-segments",
        ]
    } else {
        &[
            "feature-rx-copy",
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "multi-queue-max-queues",
            "feature-ctrl-ring",
            "feature-split-event-channels",
            "feature-multicast-control",
        ]
    }
}
