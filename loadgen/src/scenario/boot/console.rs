//! Model of xenconsoled, which looks for new domains at each `@introduceDomain` event.

use std::rc::{Rc, Weak};

use xenstored::types::Domid;

use super::{Machine, home};
use crate::client::{Client, Watch};
use crate::trouble::Result;

/// Waits for new domains and writes each one's terminal into its console node.
pub(super) async fn run(machine: Weak<Machine>, client: Client) -> Result<()> {
    let introduced = client.watch("@introduceDomain", "introduced").await?;
    client.watch("@releaseDomain", "released").await?;
    loop {
        introduced.next().await;
        // Equal events may have been merged, so one event may stand for several new domains.
        while let Some(machine) = machine.upgrade() {
            let Some(domid) = machine.arrivals.next() else { break };
            let (client, weak) = (client.clone(), Rc::downgrade(&machine));
            machine.stage.spawn(async move {
                let watch = serve(client, domid).await?;
                if let Some(machine) = weak.upgrade() {
                    machine.consoles.borrow_mut().push(watch);
                }
                Ok(())
            });
        }
    }
}

/// Serves a domain's console, once the toolstack has made it. Returns the watch on the console.
async fn serve(client: Client, domid: Domid) -> Result<Watch> {
    let console = format!("{}/console", home(domid));
    let watch = client.watch(&console, &console).await?;
    loop {
        let port = client.try_read(&format!("{console}/port")).await?;
        let reference = client.try_read(&format!("{console}/ring-ref")).await?;
        if port.is_some() && reference.is_some() {
            break;
        }
        watch.next().await;
    }
    client.read(0, &format!("{console}/type")).await?;
    client.write(0, &format!("{console}/tty"), format!("/dev/pts/{domid}")).await?;
    Ok(watch)
}
