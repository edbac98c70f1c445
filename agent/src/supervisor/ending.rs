//! How a session ends, by being asked to or by itself.

use ace_policies::{session::Report, wire::FailureCode};
use uuid::Uuid;

use super::{
    Effect, Limits,
    command::ack,
    done, failure,
    session::{Process, Session, Then},
};

impl Session {
    /// A full disk does not keep a session from ending: a stop may come twice.
    pub(super) fn stop(&mut self, id: Uuid, limits: &Limits, out: &mut Vec<Effect>) {
        out.extend([ack(id), self.save()]);
        if self.saved.ended.is_some() {
            return out.push(done(id, None));
        }
        match self.process {
            Process::None => self.stopped(Some(id), out),
            Process::Ending { number, then } => {
                if let Then::Stop(Some(earlier)) = then {
                    out.push(done(earlier, None));
                }
                let then = Then::Stop(Some(id));
                self.process = Process::Ending { number, then };
            }
            _ => self.end_process(Then::Stop(Some(id)), limits, out),
        }
    }

    pub(super) fn stopped(&mut self, id: Option<Uuid>, out: &mut Vec<Effect>) {
        self.over(Report::Stopped, None, out);
        out.extend(id.map(|id| done(id, None)));
    }

    /// The session is over here. It is kept until the server knows.
    pub(super) fn over(&mut self, report: Report, message: Option<String>, out: &mut Vec<Effect>) {
        self.saved.busy = false;
        let left = failure(FailureCode::Interrupted, "the session ended before it was its turn");
        for queued in std::mem::take(&mut self.saved.queue) {
            out.push(done(queued.command_id, Some(left.clone())));
        }
        if let Some(id) = self.saved.starting.take() {
            let text = message.clone().unwrap_or_else(|| "the session was stopped".to_owned());
            out.push(done(id, Some(failure(FailureCode::Failed, text))));
        }
        self.saved.ended = Some((report, message.clone()));
        out.extend([self.save(), self.status(report, message), Effect::Close(self.id())]);
    }
}
