//! Dispatch of the requests of threads that migrate domains, on the owner thread.

use super::expected_domains::{arrive, discard, expect};
use super::marks::mark;
use super::move_request::MoveRequest;
use super::quiesce::undo_quiesce;
use super::saved_connection::save_connection;
use crate::server::worker::Worker;

/// Executes a request about a migrating domain whose owner thread this is.
pub fn move_request(worker: &mut Worker, request: MoveRequest) {
    match request {
        MoveRequest::UndoQuiesce(domid, reply) => reply.send(undo_quiesce(worker, domid)),
        MoveRequest::SaveConnection(domid, reply) => reply.send(save_connection(worker, domid)),
        MoveRequest::Mark(export, reply) => reply.send(mark(worker, export)),
        MoveRequest::Expect(domid, by, reply) => reply.send(Ok(expect(worker, domid, &by))),
        MoveRequest::Standing(domid, reply) => {
            reply.send(Ok(worker.domains.standing(worker.core.registry(), domid)))
        }
        MoveRequest::Arrive(end, by, introduces, reply) => {
            reply.send(arrive(worker, end, &by, introduces));
        }
        MoveRequest::Discard(domid, reply) => reply.send(discard(worker, domid)),
    }
}
