//! libxl's part in booting a domain.

use std::rc::Rc;

use xenstored::protocol::Operation;
use xenstored::types::Domid;

use super::{DEVICES, Machine, backend, frontend, guest, home, make, state, vm};
use crate::client::{Client, Link, words};
use crate::trouble::Result;
use crate::wrong;

/// Creates a domain and its devices, and boots it.
pub(super) async fn create(machine: Rc<Machine>, client: Client, domid: Domid) -> Result<()> {
    let ring = machine.new_domain(domid)?;
    let port = ring.port;
    client.transact(async |tx| directories(&client, tx, domid).await).await?;
    client.transact(async |tx| description(&client, tx, domid, port).await).await?;
    machine.arrivals.add(domid)?;
    let introduce = words(&[&domid.to_string(), "1", &port.to_string()]);
    client.must(Operation::Introduce, 0, &introduce).await?;
    for device in DEVICES {
        client.transact(async |tx| attach(&client, tx, domid, device).await).await?;
    }
    client.transact(async |tx| console(&client, tx, domid).await).await?;
    for device in DEVICES {
        wait_for_backend(&client, domid, device).await?;
        hotplug(&machine, domid, device).await?;
    }
    let token = format!("death{domid}");
    client.watch("@releaseDomain", &token).await?;
    // The domain is unpaused from here on.
    let guest = machine.stage.client(Link::Ring(Box::new(ring)))?;
    machine.guests.borrow_mut().push((domid, guest.clone()));
    guest::run(guest, domid).await
}

/// Runs `libxl__domain_make`: creates the directories with their owners.
async fn directories(client: &Client, tx: u32, domid: Domid) -> Result<()> {
    let (reader, owner) = (&*format!("r{domid}"), &*format!("n{domid}"));
    let (home, vm, libxl) = (home(domid), vm(domid), format!("/libxl/{domid}"));
    for path in [&home, &vm, &libxl] {
        // Remains of a former domain; usually there are none.
        let _ = client.request(Operation::Rm, tx, &words(&[path])).await?;
        let permissions: &[&str] = if *path == libxl { &["n0"] } else { &["n0", reader] };
        make(client, tx, path, permissions).await?;
    }
    client.write(tx, &format!("{home}/vm"), &vm).await?;
    client.write(tx, &format!("{home}/name"), format!("guest{domid}")).await?;
    for name in ["cpu", "memory", "device", "control", "hvmloader"] {
        make(client, tx, &format!("{home}/{name}"), &["n0", reader]).await?;
    }
    for name in ["shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"] {
        make(client, tx, &format!("{home}/control/{name}"), &[owner]).await?;
    }
    for name in ["device/suspend/event-channel", "data", "drivers", "feature", "attr", "error"] {
        make(client, tx, &format!("{home}/{name}"), &[owner]).await?;
    }
    client.write(tx, &format!("{vm}/uuid"), vm.trim_start_matches("/vm/")).await?;
    client.write(tx, &format!("{vm}/name"), format!("guest{domid}")).await?;
    client.write(tx, &format!("{libxl}/type"), "pvh").await?;
    client.write(tx, &format!("{libxl}/dm-version"), "qemu_xen").await
}

/// Runs `libxl__build_post`: writes memory, CPUs, ports, image.
async fn description(client: &Client, tx: u32, domid: Domid, port: u32) -> Result<()> {
    let (home, vm) = (home(domid), vm(domid));
    for (key, value) in [
        ("memory/static-max", "1048576"),
        ("memory/target", "1048577"),
        ("memory/videoram", "0"),
        ("domid", &*domid.to_string()),
        ("store/port", &port.to_string()),
        ("store/ring-ref", "1"),
        ("cpu/0/availability", "online"),
        ("cpu/1/availability", "online"),
        ("control/platform-feature-multiprocessor-suspend", "1"),
        ("control/platform-feature-xs_reset_watches", "1"),
        ("platform/acpi", "1"),
        ("platform/acpi_s3", "1"),
        ("platform/acpi_s4", "1"),
        ("platform/acpi_laptop_slate", "0"),
    ] {
        client.write(tx, &format!("{home}/{key}"), value).await?;
    }
    for (key, value) in [
        ("image/ostype", "linux"),
        ("image/kernel", "/boot/vmlinuz"),
        ("image/cmdline", "root=/dev/xvda"),
        ("start_time", "1700000000.00"),
    ] {
        client.write(tx, &format!("{vm}/{key}"), value).await?;
    }
    Ok(())
}

/// Runs `libxl__device_generic_add` for a disk or a network interface.
async fn attach(client: &Client, tx: u32, domid: Domid, device: (&str, u32)) -> Result<()> {
    let (reader, owner) = (&*format!("r{domid}"), &*format!("n{domid}"));
    let (front, back) = (frontend(domid, device), backend(domid, device));
    let (class, number) = device;
    let libxl = format!("/libxl/{domid}/device/{class}/{number}");
    // Checks that the device does not exist, and that the domain does.
    let exists = client.request(Operation::Read, tx, &words(&[&libxl])).await?;
    if exists.is_ok() {
        wrong!("{libxl} exists before it is created");
    }
    client.read(tx, &format!("/libxl/{domid}")).await?;
    make(client, tx, &libxl, &["n0"]).await?;
    client.write(tx, &format!("{libxl}/frontend"), &front).await?;
    client.write(tx, &format!("{libxl}/backend"), &back).await?;
    make(client, tx, &front, &[owner, "r0"]).await?;
    client.write(tx, &format!("{front}/backend"), &back).await?;
    client.write(tx, &format!("{front}/backend-id"), "0").await?;
    client.write(tx, &format!("{front}/state"), state::INITIALISING).await?;
    let own: &[_] = match class {
        "vbd" => &[("virtual-device", "51712"), ("device-type", "disk")],
        _ => &[("handle", "0"), ("mac", "00:16:3e:00:00:01"), ("mtu", "1500")],
    };
    for (key, value) in own {
        client.write(tx, &format!("{front}/{key}"), value).await?;
    }
    make(client, tx, &back, &["n0", reader]).await?;
    client.write(tx, &format!("{back}/frontend"), &front).await?;
    client.write(tx, &format!("{back}/frontend-id"), domid.to_string()).await?;
    for (key, value) in backend_entries(class) {
        client.write(tx, &format!("{back}/{key}"), value).await?;
        client.write(tx, &format!("{libxl}/{key}"), value).await?;
    }
    client.write(tx, &format!("{back}/state"), state::INITIALISING).await
}

fn backend_entries(class: &str) -> &'static [(&'static str, &'static str)] {
    match class {
        "vbd" => &[
            ("params", "/dev/vg/guest"),
            ("script", "/etc/xen/scripts/block"),
            ("online", "1"),
            ("removable", "0"),
            ("bootable", "1"),
            ("dev", "xvda"),
            ("type", "phy"),
            ("mode", "w"),
            ("device-type", "disk"),
            ("discard-enable", "1"),
        ],
        _ => &[
            ("online", "1"),
            ("script", "/etc/xen/scripts/vif-bridge"),
            ("mac", "00:16:3e:00:00:01"),
            ("bridge", "xenbr0"),
            ("handle", "0"),
            ("type", "vif"),
            ("hotplug-status", ""),
        ],
    }
}

/// Adds the console. The console's backend is xenconsoled, which reads only the frontend; the kernel is notified of the
/// backend but has no driver for it.
async fn console(client: &Client, tx: u32, domid: Domid) -> Result<()> {
    let (reader, owner) = (&*format!("r{domid}"), &*format!("n{domid}"));
    let front = format!("{}/console", home(domid));
    let back = backend(domid, ("console", 0));
    let libxl = format!("/libxl/{domid}/device/console/0");
    make(client, tx, &libxl, &["n0"]).await?;
    client.write(tx, &format!("{libxl}/frontend"), &front).await?;
    client.write(tx, &format!("{libxl}/backend"), &back).await?;
    make(client, tx, &front, &[owner, "r0"]).await?;
    for (key, value) in [
        ("backend", &*back),
        ("backend-id", "0"),
        ("limit", "1048576"),
        ("type", "xenconsoled"),
        ("output", "pty"),
        ("tty", ""),
        ("port", "2"),
        ("ring-ref", "2"),
    ] {
        client.write(tx, &format!("{front}/{key}"), value).await?;
    }
    make(client, tx, &back, &["n0", reader]).await?;
    for (key, value) in [
        ("frontend", &*front),
        ("frontend-id", &*domid.to_string()),
        ("online", "1"),
        ("protocol", "vt100"),
        ("state", state::INITIALISING),
    ] {
        client.write(tx, &format!("{back}/{key}"), value).await?;
        client.write(tx, &format!("{libxl}/{key}"), value).await?;
    }
    Ok(())
}

/// Waits until the kernel has recognised the backend.
async fn wait_for_backend(client: &Client, domid: Domid, device: (&str, u32)) -> Result<()> {
    let path = format!("{}/state", backend(domid, device));
    let watch = client.watch(&path, &path).await?;
    while client.read(0, &path).await? == state::INITIALISING {
        watch.next().await;
    }
    watch.remove().await
}

/// Runs the hotplug script, which is a separate process.
async fn hotplug(machine: &Machine, domid: Domid, device: (&str, u32)) -> Result<()> {
    let client = machine.stage.connect(&machine.socket)?;
    let back = backend(domid, device);
    let (reads, writes): (&[&str], &[(&str, &str)]) = match device.0 {
        "vbd" => (
            &["params", "mode", "type", "frontend-id"],
            &[
                ("physical-device", "fd:0"),
                ("physical-device-path", "/dev/dm-0"),
                ("hotplug-status", "connected"),
            ],
        ),
        _ => (
            &["script", "mac", "bridge", "handle", "frontend-id"],
            &[("hotplug-status", "connected")],
        ),
    };
    for key in reads {
        client.read(0, &format!("{back}/{key}")).await?;
    }
    for (key, value) in writes {
        client.write(0, &format!("{back}/{key}"), value).await?;
    }
    Ok(())
}
