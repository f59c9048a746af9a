//! Questions that wait for a plugin's process.
//!
//! Owns the processes by their handles, what they have written so far, and when each call is overdue.
//! A process that runs once has one call; one that is kept running has many, told apart by ids. Equal
//! questions to one plugin share a call.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::course::Course;
use super::question::{Client, Forward, Verdict};
use super::waiter::Waiter;
use super::{Action, Due, Engine, Event, Out, ProcessExit, ReplyTo};
use crate::handle::ProcessHandle;
use crate::limits::{
    CALLS_PER_PROCESS, PLUGIN_CALLS, PROCESS_OUTPUT_OCTETS, PROCESSES, WAITERS_PER_FETCH,
};
use crate::metrics::Counter;
use crate::planted::{Bug, is_planted};
use crate::policy::{
    ExecMode, ExecSettings, PluginKind, PolicyError, PolicyVerdict, Reason, decode_json,
    decode_line, question_json,
};
use crate::time::Instant;
use crate::timers::TimerId;
use crate::wire::Rcode;

/// A plugin's process.
#[derive(Debug)]
pub(super) struct Process {
    /// The plugin's place. It is of no use once the process has been given up.
    plugin: usize,
    command: Arc<ExecSettings>,
    started: Instant,
    pub(super) timer: TimerId,
    /// The oldest first.
    pub(super) calls: VecDeque<Call>,
    /// What it has written and nobody has made sense of yet.
    pub(super) output: Vec<u8>,
    /// When it last answered.
    heard_at: Option<Instant>,
    /// It was told to end: nothing that it says counts any more.
    pub(super) given_up: bool,
    last_id: u64,
}

/// A question that a process has been asked.
#[derive(Debug)]
pub(super) struct Call {
    id: u64,
    /// What was asked, without the id.
    question: Vec<u8>,
    asked_at: Instant,
    pub(super) deadline: Instant,
    pub(super) waiters: Vec<Suspended>,
}

/// A client's query that waits for a plugin.
#[derive(Debug)]
pub(super) struct Suspended {
    pub(super) waiter: Waiter,
    course: Box<Course>,
}

/// The process of a plugin that is kept running.
#[derive(Debug, Default)]
pub(super) struct Kept {
    process: Option<ProcessHandle>,
    /// Runs in a row that were short.
    failures: u32,
    /// It is not started before.
    retry_at: Option<Instant>,
}

/// A plugin's result for those who wait.
type PluginResult = Result<PolicyVerdict, PolicyError>;

impl Engine {
    /// Lets a question wait for a plugin's process, which is started if need be.
    #[expect(clippy::too_many_arguments, reason = "a question, its client, and the way back")]
    pub(super) fn suspend(
        &mut self,
        now: Instant,
        forward: Forward<'_>,
        plugin: usize,
        client: Client,
        reply_to: ReplyTo,
        arrived: Instant,
        out: &mut Out<'_>,
    ) {
        let Forward { asker, course } = forward;
        let deadline = arrived + self.snapshot.routing.deadline;
        let waiter = Waiter::new(&asker, client, reply_to, arrived, deadline, None);
        let suspended = Suspended { waiter, course: Box::new(course) };
        if self.has_stopped() {
            return self.shed(now, suspended.waiter, Reason::Stopping, out);
        }
        if let Err((suspended, error)) = self.call(now, plugin, suspended) {
            self.resume(now, suspended, plugin, Err(error), out);
        }
    }

    #[expect(clippy::result_large_err, reason = "who is turned away is moved once")]
    fn call(
        &mut self,
        now: Instant,
        plugin: usize,
        suspended: Suspended,
    ) -> Result<(), (Suspended, PolicyError)> {
        let settings = Arc::clone(&self.snapshot.plugins);
        let (command, timeout) = match settings.plugins.get(plugin) {
            Some(settings) => match &settings.kind {
                PluginKind::Exec(command) => (command, settings.timeout),
                PluginKind::Lua(_) => return Err((suspended, PolicyError::Disabled)),
            },
            None => return Err((suspended, PolicyError::Disabled)),
        };
        let question = {
            let (desk, _) = self.desk();
            let who = desk.who(suspended.waiter.client);
            question_json(&desk.policy_question(who, &suspended.course), None)
        };
        if self.suspended >= PLUGIN_CALLS {
            self.report_limit(now, Counter::LimitPlugins, "plugin calls");
            return Err((suspended, PolicyError::Busy));
        }
        // A client that has waited elsewhere already does not wait here beyond its own deadline.
        let by = suspended.waiter.deadline.min(now + timeout);
        let suspended = match self.join_call(plugin, &question, by, suspended) {
            Ok(()) => return Ok(()),
            Err(suspended) => suspended,
        };
        let call = Call { id: 0, question, asked_at: now, deadline: by, waiters: vec![suspended] };
        let placed = match command.mode {
            ExecMode::Once => self.run_once(now, plugin, command, call),
            ExecMode::Worker => self.ask_kept(now, plugin, command, call),
        };
        placed.map(|()| self.suspended += 1).map_err(|(mut call, error)| {
            (call.waiters.pop().expect("a call is made for somebody"), error)
        })
    }

    /// Joins a call that asks the same and takes no longer than until then.
    #[expect(clippy::result_large_err, reason = "who is turned away is moved once")]
    fn join_call(
        &mut self,
        plugin: usize,
        question: &[u8],
        by: Instant,
        suspended: Suspended,
    ) -> Result<(), Suspended> {
        let processes = self.processes.values_mut();
        let asked = processes.filter(|process| process.plugin == plugin && !process.given_up);
        let mut calls = asked.flat_map(|process| &mut process.calls);
        let is_same = |call: &&mut Call| {
            let has_room = call.waiters.len() < WAITERS_PER_FETCH;
            call.question == question && call.deadline <= by && has_room
        };
        let Some(call) = calls.find(is_same) else { return Err(suspended) };
        call.waiters.push(suspended);
        self.suspended += 1;
        self.metrics.counters.count(Counter::PluginShared);
        Ok(())
    }

    fn run_once(
        &mut self,
        now: Instant,
        plugin: usize,
        command: &Arc<ExecSettings>,
        call: Call,
    ) -> Result<(), (Call, PolicyError)> {
        let input = call.question.clone();
        self.start(now, plugin, command, call, input).map(|_| ())
    }

    /// Asks the process that is kept running; it is started if it does not run, unless it has to wait.
    fn ask_kept(
        &mut self,
        now: Instant,
        plugin: usize,
        command: &Arc<ExecSettings>,
        mut call: Call,
    ) -> Result<(), (Call, PolicyError)> {
        let kept = self.kept.entry(plugin).or_default();
        if let Some(handle) = kept.process
            && let Some(process) = self.processes.get_mut(handle)
        {
            if process.calls.len() >= CALLS_PER_PROCESS {
                return Err((call, PolicyError::Busy));
            }
            process.last_id += 1;
            call.id = process.last_id;
            let input = with_id(&call).into();
            process.calls.push_back(call);
            self.actions.push_back(Action::FeedProcess { process: handle, input });
            self.watch(handle);
            return Ok(());
        }
        let control = &self.snapshot.control;
        if control.max_consecutive_failure > 0 && kept.failures > control.max_consecutive_failure {
            return Err((call, PolicyError::Process("was given up after failures".to_owned())));
        }
        if kept.retry_at.is_some_and(|at| now < at) {
            return Err((call, PolicyError::Process("waits to be started again".to_owned())));
        }
        call.id = 1;
        let input = with_id(&call);
        let handle = self.start(now, plugin, command, call, input)?;
        self.kept.entry(plugin).or_default().process = Some(handle);
        Ok(())
    }

    fn start(
        &mut self,
        now: Instant,
        plugin: usize,
        command: &Arc<ExecSettings>,
        call: Call,
        input: Vec<u8>,
    ) -> Result<ProcessHandle, (Call, PolicyError)> {
        if self.processes.len() >= PROCESSES {
            self.report_limit(now, Counter::LimitPlugins, "plugin processes");
            return Err((call, PolicyError::Busy));
        }
        let (deadline, timers) = (call.deadline, &mut self.timers);
        let handle = self.processes.insert_with(|handle| Process {
            plugin,
            command: Arc::clone(command),
            started: now,
            timer: timers.allocate(Due::Process(handle)),
            calls: VecDeque::from([call]),
            output: Vec::new(),
            heard_at: None,
            given_up: false,
            last_id: 1,
        });
        let handle = handle.expect("there was a place");
        let timer = self.processes.get(handle).expect("just taken in").timer;
        self.timers.set(timer, deadline);
        self.metrics.counters.count(Counter::PluginProcesses);
        let command = Arc::clone(command);
        self.actions.push_back(Action::StartProcess {
            process: handle,
            command,
            input: Bytes::from(input),
        });
        Ok(handle)
    }

    /// A process has written something.
    pub(super) fn process_bytes(&mut self, now: Instant, handle: ProcessHandle, bytes: &[u8]) {
        let Some(process) = self.processes.get_mut(handle) else {
            return self.metrics.counters.count(Counter::DeadHandles);
        };
        if process.given_up {
            return; // it will hear of it
        }
        let is_kept = process.command.mode == ExecMode::Worker;
        process.output.extend_from_slice(bytes);
        if is_kept && !self.process_lines(now, handle) {
            return;
        }
        let rest = self.processes.get(handle).map_or(0, |process| process.output.len());
        if rest > PROCESS_OUTPUT_OCTETS {
            self.give_process_up(now, handle, &PolicyError::Output);
        }
    }

    /// Takes whole lines of a process that is kept running; whether it is still worth listening to.
    fn process_lines(&mut self, now: Instant, handle: ProcessHandle) -> bool {
        let Some(process) = self.processes.get_mut(handle) else { return false };
        let mut output = std::mem::take(&mut process.output);
        let mut rest = &output[..];
        while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let too_long = line.len() > PROCESS_OUTPUT_OCTETS;
            let read = if too_long { Err(PolicyError::Output) } else { decode_line(line) };
            match read {
                Ok((id, result)) => self.answered(now, handle, id, &result),
                Err(error) => {
                    self.give_process_up(now, handle, &error);
                    return false;
                }
            }
        }
        let taken = output.len() - rest.len();
        output.drain(..taken);
        if let Some(process) = self.processes.get_mut(handle) {
            process.output = output;
        }
        true
    }

    /// A process that is kept running has decided. Ids that nobody waits for any more are ignored.
    fn answered(&mut self, now: Instant, handle: ProcessHandle, id: u64, result: &PluginResult) {
        let Some(process) = self.processes.get_mut(handle) else { return };
        process.heard_at = Some(now);
        let Some(at) = process.calls.iter().position(|call| call.id == id) else { return };
        let plugin = process.plugin;
        let call = process.calls.remove(at).expect("just found");
        self.watch(handle);
        self.finish_call(now, plugin, call, result);
    }

    /// A process has ended.
    pub(super) fn process_exited(&mut self, now: Instant, handle: ProcessHandle, how: ProcessExit) {
        if is_planted(Bug::ProcessLeaked) && how != ProcessExit::Code(0) {
            return;
        }
        let Some(mut process) = self.processes.remove(handle) else {
            return self.metrics.counters.count(Counter::DeadHandles);
        };
        self.timers.release(process.timer);
        if process.given_up {
            return;
        }
        let result = match (process.command.mode, how) {
            (ExecMode::Once, ProcessExit::Code(0)) if is_planted(Bug::NonsenseForwards) => {
                Ok(decode_json(&process.output).unwrap_or_default())
            }
            (ExecMode::Once, ProcessExit::Code(0)) => decode_json(&process.output),
            _ => Err(PolicyError::Process(shown(how))),
        };
        if process.command.mode == ExecMode::Worker {
            let name = process.command.name.clone();
            self.kept_ended(now, process.plugin, name, process.started, shown(how));
        }
        for call in process.calls.drain(..) {
            self.finish_call(now, process.plugin, call, &result);
        }
    }

    /// A process that was to be kept running is none any more: when may it be started again?
    fn kept_ended(
        &mut self,
        now: Instant,
        place: usize,
        plugin: String,
        started: Instant,
        how: String,
    ) {
        let control = &self.snapshot.control;
        let kept = self.kept.entry(place).or_default();
        if now.since(started) >= control.min_stable_run {
            kept.failures = 0;
        }
        kept.process = None;
        kept.failures = kept.failures.saturating_add(1);
        let doublings = kept.failures.saturating_sub(1).min(32);
        let wait = u64::try_from(control.restart_backoff.as_nanos()).unwrap_or(u64::MAX);
        let longest = u64::try_from(control.restart_max_backoff.as_nanos()).unwrap_or(u64::MAX);
        let wait = wait.saturating_mul(1 << doublings).min(longest);
        kept.retry_at = Some(now + crate::time::Duration::from_nanos(wait));
        self.report(now, Event::PluginEnded { plugin, how });
    }

    /// Calls have had their time.
    pub(super) fn process_due(&mut self, now: Instant, handle: ProcessHandle) {
        if is_planted(Bug::PluginDeadlineIgnored) {
            return;
        }
        let Some(process) = self.processes.get_mut(handle) else { return };
        let mut overdue = process.calls.iter().filter(|call| call.deadline <= now);
        let heard_at = process.heard_at;
        let is_deaf = overdue.any(|call| heard_at.is_none_or(|heard| heard < call.asked_at));
        if process.command.mode == ExecMode::Once || is_deaf {
            return self.give_process_up(now, handle, &PolicyError::Timeout);
        }
        // It works, but not fast enough for this one.
        let plugin = process.plugin;
        let calls = std::mem::take(&mut process.calls);
        let (overdue, waiting): (VecDeque<_>, _) =
            calls.into_iter().partition(|call| call.deadline <= now);
        process.calls = waiting;
        self.watch(handle);
        for call in overdue {
            self.finish_call(now, plugin, call, &Err(PolicyError::Timeout));
        }
    }

    /// Sets a process's timer to its most urgent call.
    fn watch(&mut self, handle: ProcessHandle) {
        let Some(process) = self.processes.get(handle) else { return };
        match process.next_deadline() {
            Some(deadline) => self.timers.set(process.timer, deadline),
            None => self.timers.cancel(process.timer),
        }
    }

    /// Kills a process; those who wait for it get the error. It keeps its place until it has ended.
    fn give_process_up(&mut self, now: Instant, handle: ProcessHandle, error: &PolicyError) {
        let Some(process) = self.processes.get_mut(handle) else { return };
        process.given_up = true;
        process.output = Vec::new();
        let (plugin, calls) = (process.plugin, std::mem::take(&mut process.calls));
        self.timers.cancel(process.timer);
        self.actions.push_back(Action::KillProcess { process: handle });
        if process.command.mode == ExecMode::Worker {
            let (name, started) = (process.command.name.clone(), process.started);
            self.kept_ended(now, plugin, name, started, error.to_string());
        }
        for call in calls {
            self.finish_call(now, plugin, call, &Err(error.clone()));
        }
    }

    fn finish_call(&mut self, now: Instant, plugin: usize, call: Call, result: &PluginResult) {
        self.suspended -= call.waiters.len();
        let heard = if is_planted(Bug::CallWaiterForgotten) { 1 } else { call.waiters.len() };
        for suspended in call.waiters.into_iter().take(heard) {
            self.resume(now, suspended, plugin, result.clone(), &mut Out(None));
        }
    }

    /// Goes on with a question after a plugin.
    fn resume(
        &mut self,
        now: Instant,
        suspended: Suspended,
        plugin: usize,
        result: PluginResult,
        out: &mut Out<'_>,
    ) {
        let Suspended { waiter, course } = suspended;
        let (client, asker) = (waiter.client, waiter.asker());
        let (mut desk, scratch) = self.desk();
        let verdict = desk.resume(now, client, asker, *course, plugin, result, scratch);
        self.carry_out(now, &waiter, verdict, out);
    }

    /// Begins again with a question, under a new configuration.
    fn begin_again(&mut self, now: Instant, suspended: Suspended) {
        let Suspended { waiter, course } = suspended;
        let (client, asker) = (waiter.client, waiter.asker());
        let (mut desk, scratch) = self.desk();
        let begun = desk.begin(client, &asker, course.said);
        let verdict = desk.run(now, client, asker, begun, scratch);
        self.carry_out(now, &waiter, verdict, &mut Out(None));
    }

    /// Does what was decided about a question that had to wait; a reply is in the scratch buffer.
    fn carry_out(
        &mut self,
        now: Instant,
        waiter: &Waiter,
        verdict: Verdict<'_>,
        out: &mut Out<'_>,
    ) {
        let (client, reply_to, arrived) = (waiter.client, waiter.reply_to, waiter.arrived);
        match verdict {
            Verdict::Reply(written) => {
                self.hand_over(now, reply_to, written.rcode, written.len, out);
                let (asker, rcode, reason) = (waiter.asker(), written.rcode, written.reason);
                self.log_query(now, client, &asker, rcode, reason, arrived);
            }
            Verdict::Forward(forward) => self.forward(now, forward, client, reply_to, arrived, out),
            Verdict::Suspend(forward, plugin) => {
                self.suspend(now, forward, plugin, client, reply_to, arrived, out);
            }
            Verdict::Ignore => self.ignore(now, reply_to),
            Verdict::Drop => {} // it was a query when it came
        }
    }

    /// Under another configuration everybody who waits begins again. Processes that run once have no
    /// use any more; neither have others, if what is configured of plugins has changed.
    pub(super) fn begin_calls_again(&mut self, now: Instant, changed: bool) {
        let mut suspended = Vec::new();
        for handle in self.processes.handles() {
            let Some(process) = self.processes.get_mut(handle) else { continue };
            suspended.extend(process.calls.drain(..).flat_map(|call| call.waiters));
            let is_kept = process.command.mode == ExecMode::Worker;
            self.timers.cancel(process.timer);
            if (changed || !is_kept) && !process.given_up {
                process.given_up = true;
                process.output = Vec::new();
                self.actions.push_back(Action::KillProcess { process: handle });
            }
        }
        if changed {
            self.kept.clear();
        }
        self.suspended -= suspended.len();
        if is_planted(Bug::NotBegunAgain) {
            return;
        }
        for suspended in suspended {
            self.begin_again(now, suspended);
        }
    }

    /// The process stops: whoever waits for a plugin is told so.
    pub(super) fn end_calls(&mut self, now: Instant) {
        let mut suspended = Vec::new();
        for handle in self.processes.handles() {
            let Some(process) = self.processes.get_mut(handle) else { continue };
            suspended.extend(process.calls.drain(..).flat_map(|call| call.waiters));
        }
        self.kill_processes();
        self.suspended -= suspended.len();
        for Suspended { waiter, .. } in suspended {
            self.deliver_rcode(now, waiter, Rcode::SERVFAIL, Reason::Stopping, &mut Out(None));
        }
    }

    /// Ends processes that nobody waits for.
    pub(super) fn kill_processes(&mut self) {
        for handle in self.processes.handles() {
            let Some(process) = self.processes.get_mut(handle) else { continue };
            let is_spared =
                is_planted(Bug::ProcessOutlivesStop) && process.command.mode == ExecMode::Worker;
            if process.calls.is_empty() && !process.given_up && !is_spared {
                process.given_up = true;
                process.output = Vec::new();
                self.timers.cancel(process.timer);
                self.actions.push_back(Action::KillProcess { process: handle });
            }
        }
        self.kept.clear();
    }

    /// Forgets processes that were killed and of whose end nobody has told.
    pub(super) fn forget_processes(&mut self) {
        for handle in self.processes.handles() {
            if let Some(process) = self.processes.remove(handle) {
                self.timers.release(process.timer);
            }
        }
    }
}

impl Process {
    /// When its most urgent call has had its time.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.calls.iter().map(|call| call.deadline).min()
    }

    /// Queries that wait for it.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.calls.iter().flat_map(|call| &call.waiters).map(|suspended| &suspended.waiter)
    }
}

/// A call's line for a process that is kept running.
fn with_id(call: &Call) -> Vec<u8> {
    // The question is an object: its id goes in front of what it begins with.
    let id = format!("{{\"id\":{},", call.id);
    [id.as_bytes(), call.question.get(1..).unwrap_or_default()].concat()
}

fn shown(how: ProcessExit) -> String {
    match how {
        ProcessExit::Code(code) => format!("ended with code {code}"),
        ProcessExit::Signal(signal) => format!("was ended by signal {signal}"),
        ProcessExit::NotStarted(why) => format!("could not be started: {}", why.name()),
    }
}
