//! Scripted plugins: their rules, their processes while a scenario runs, and what these were asked.
//!
//! A process starts, reads and is killed at once, unless a rule says otherwise. Whatever it does, its
//! end is reported once.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use balancedns_core::engine::{IoFailure, ProcessExit};
use balancedns_core::handle::ProcessHandle;
use balancedns_core::policy::{ExecMode, ExecSettings};
use bytes::Bytes;

use super::lines::{Fault, Line, Words};
use super::rules::{NamePattern, failure};
use super::wire;
use super::world::{Later, World};
use crate::machine::Input;
use crate::plugin::Told;

/// Octets that a process writes at once.
const PIECE: usize = 4_096;
/// The signal that nobody can ignore.
const KILLED: i32 = 9;

/// What a plugin does when something happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PluginRule {
    line: usize,
    when: PluginEvent,
    times: Option<usize>,
    acts: Vec<PluginAct>,
}

/// What a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PluginEvent {
    Question(QuestionPattern),
    /// A process is being started.
    Start,
    /// A process is being killed.
    Kill,
}

/// What a process does. Carried out in order; `After` delays what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PluginAct {
    /// It reads what it is told, from now on.
    Starts,
    /// Writes this with the question's id; one that runs once ends then.
    Says(String),
    /// Writes a line as it is.
    Writes(String),
    /// Writes this without an end of line.
    Begins(String),
    Floods(usize),
    Exits(i32),
    Dies(i32),
    /// It cannot be started.
    Fails(IoFailure),
    Silence,
    /// Nothing yet: a step says what and when.
    Hold,
    After(Duration),
}

/// What has to be true of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QuestionPattern {
    text: String,
    name: NamePattern,
    record_type: Option<u16>,
    client: Option<IpAddr>,
    transport: Option<String>,
    /// Neither client nor transport are told.
    untold: bool,
    same_process: Option<bool>,
}

/// What a plugin does by itself, or what is looked at there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PluginStep {
    Gets(Box<QuestionPattern>),
    GetsQuestions(usize),
    Answers(Option<Box<QuestionPattern>>, Vec<PluginAct>),
    Becomes(Vec<PluginRule>),
    /// All its processes do this.
    Do(PluginAct),
    HasProcesses(usize),
    WasStarted(usize),
    WasKilled(usize),
}

/// A plugin while a scenario runs.
#[derive(Debug)]
pub(super) struct PluginState {
    name: String,
    rules: Vec<PluginRule>,
    used: Vec<usize>,
    received: Vec<(ProcessHandle, Told)>,
    looked_at: usize,
    held: Vec<usize>,
    started: usize,
    killed: usize,
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    plugin: usize,
    mode: ExecMode,
    reads: bool,
    killed: bool,
    /// What it has not read.
    input: Vec<u8>,
}

/// What a plugin reacts to.
#[derive(Debug, Clone, Copy)]
pub(super) enum PluginTarget {
    Process(ProcessHandle),
    /// By its number among those received.
    Question(usize),
}

impl Process {
    /// Whether its end is only to be reported.
    pub(super) const fn is_killed(&self) -> bool {
        self.killed
    }
}

impl PluginRule {
    /// `on NAME ...`, `on start` or `on kill`, with what is done below.
    pub(super) fn parse(line: &Line) -> Result<Self, Fault> {
        let here = Fault::at(line.number);
        let mut words = line.words();
        if !words.accept("on") {
            return Err(line.fault("a rule begins with \"on\""));
        }
        let when = match words.peek() {
            Some("start") => PluginEvent::Start,
            Some("kill") => PluginEvent::Kill,
            Some(_) | None => {
                PluginEvent::Question(QuestionPattern::parse(&mut words).map_err(&here)?)
            }
        };
        if !matches!(when, PluginEvent::Question(_)) {
            words.next();
        }
        let times = match words.next() {
            None => None,
            Some("once") => Some(1),
            Some("times") => Some(words.number("number of times").map_err(&here)?),
            Some(other) => return Err(line.fault(format!("\"{other}\" is no number of times"))),
        };
        words.end().map_err(here)?;
        Ok(Self { line: line.number, when, times, acts: PluginAct::parse_all(line)? })
    }
}

impl PluginAct {
    /// Everything below a line.
    ///
    /// # Errors
    /// What is wrong with it; nothing at all is.
    pub(super) fn parse_all(line: &Line) -> Result<Vec<Self>, Fault> {
        if line.children.is_empty() {
            return Err(line.fault("what is done stands below; \"silence\" is nothing"));
        }
        line.children.iter().map(Self::parse).collect()
    }

    fn parse(line: &Line) -> Result<Self, Fault> {
        line.expect_no_children()?;
        Self::of(line.words()).map_err(Fault::at(line.number))
    }

    /// What one line says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of(mut words: Words<'_>) -> Result<Self, String> {
        let act = match words.next().unwrap_or_default() {
            "says" => return Ok(Self::Says(words.rest().to_owned())),
            "writes" => return Ok(Self::Writes(words.rest().to_owned())),
            "begins" => return Ok(Self::Begins(words.rest().to_owned())),
            "starts" => Self::Starts,
            "silence" => Self::Silence,
            "hold" => Self::Hold,
            "floods" => Self::Floods(words.number("number of octets")?),
            "exits" => Self::Exits(words.number("exit code")?),
            "dies" => Self::Dies(words.number("signal")?),
            "fail" => Self::Fails(failure(&mut words)?),
            "after" => Self::After(words.duration()?),
            other => return Err(format!("\"{other}\" is nothing that a process does")),
        };
        words.end()?;
        Ok(act)
    }
}

impl QuestionPattern {
    /// `NAME|*|*.NAME [TYPE] [client ADDRESS] [over TRANSPORT] [untold] [same-process|other-process]`;
    /// what follows is left.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(words: &mut Words<'_>) -> Result<Self, String> {
        let mut whole = *words;
        let mut pattern = Self {
            text: whole.rest().to_owned(),
            name: NamePattern::parse(words.expect("a name, or *")?)?,
            record_type: None,
            client: None,
            transport: None,
            untold: false,
            same_process: None,
        };
        while let Some(word) = words.peek() {
            match word {
                "once" | "times" => break,
                _ => words.next(),
            };
            match word {
                "client" => pattern.client = Some(words.number("address")?),
                "over" => pattern.transport = Some(words.expect("a transport")?.to_owned()),
                "untold" => pattern.untold = true,
                "same-process" => pattern.same_process = Some(true),
                "other-process" => pattern.same_process = Some(false),
                _ => {
                    let found = wire::record_type(word);
                    let wrong = || format!("\"{word}\" is nothing that is looked at here");
                    pattern.record_type = Some(found.ok_or_else(wrong)?);
                }
            }
        }
        Ok(pattern)
    }

    fn matches(&self, told: &Told) -> bool {
        let Ok(name) = wire::name(&told.domain) else { return false };
        self.name.matches(&name)
            && self.record_type.is_none_or(|wanted| wanted == told.qtype)
            && self.client.is_none_or(|wanted| Some(wanted) == told.client)
            && self.transport.as_ref().is_none_or(|wanted| Some(wanted) == told.transport.as_ref())
            && !(self.untold && (told.client.is_some() || told.transport.is_some()))
    }
}

impl PluginStep {
    /// What stands behind a plugin's name in a step.
    pub(super) fn parse(line: &Line, mut words: Words<'_>) -> Result<Self, Fault> {
        let here = Fault::at(line.number);
        let first = words;
        let word = words.expect("what the plugin does").map_err(&here)?;
        match word {
            "answers" => {
                let is_any = words.peek().is_none();
                let pattern = (!is_any).then(|| QuestionPattern::parse(&mut words)).transpose();
                let pattern = pattern.map_err(&here)?.map(Box::new);
                words.end().map_err(&here)?;
                return Ok(Self::Answers(pattern, PluginAct::parse_all(line)?));
            }
            "becomes" => {
                words.end().map_err(here)?;
                let rules: Result<_, Fault> = line.children.iter().map(PluginRule::parse).collect();
                return Ok(Self::Becomes(rules?));
            }
            _ => line.expect_no_children()?,
        }
        Self::of(word, words, first).map_err(here)
    }

    fn of(word: &str, mut words: Words<'_>, whole: Words<'_>) -> Result<Self, String> {
        let step = match word {
            "gets" if words.accept("nothing") => Self::GetsQuestions(0),
            "gets" => {
                let mut ahead = words;
                if let Some(count) = ahead.next().and_then(|word| word.parse().ok())
                    && matches!(ahead.next(), Some("questions" | "question"))
                {
                    words = ahead;
                    Self::GetsQuestions(count)
                } else {
                    Self::Gets(Box::new(QuestionPattern::parse(&mut words)?))
                }
            }
            "has" => {
                let count = words.number("number of processes")?;
                if !words.accept("processes") && !words.accept("process") {
                    return Err("processes are what a plugin has".to_owned());
                }
                Self::HasProcesses(count)
            }
            "was" => {
                let what = words.expect("started or killed")?;
                let count = words.number("number of times")?;
                let _ = words.accept("times") || words.accept("time");
                match what {
                    "started" => Self::WasStarted(count),
                    "killed" => Self::WasKilled(count),
                    other => return Err(format!("\"{other}\" is not \"started\" or \"killed\"")),
                }
            }
            _ => return Ok(Self::Do(PluginAct::of(whole)?)),
        };
        words.end()?;
        Ok(step)
    }
}

impl PluginState {
    pub(super) fn new(name: &str, rules: Vec<PluginRule>) -> Self {
        Self {
            name: name.to_owned(),
            used: vec![0; rules.len()],
            rules,
            received: Vec::new(),
            looked_at: 0,
            held: Vec::new(),
            started: 0,
            killed: 0,
        }
    }

    /// # Errors
    /// The line of a rule that was never needed: it shows nothing.
    pub(super) fn check_used(&self) -> Result<(), usize> {
        let mut rules = self.rules.iter().zip(&self.used);
        rules.find(|(_, used)| **used == 0).map_or(Ok(()), |(rule, _)| Err(rule.line))
    }

    /// Other rules from now on; the old ones must have been of use.
    ///
    /// # Errors
    /// The line of one that was not.
    pub(super) fn becomes(&mut self, rules: Vec<PluginRule>) -> Result<(), usize> {
        self.check_used()?;
        self.used = vec![0; rules.len()];
        self.rules = rules;
        Ok(())
    }

    fn acts(&mut self, applies: impl Fn(&PluginEvent) -> bool) -> Option<VecDeque<PluginAct>> {
        let found = self.rules.iter().zip(&self.used).position(|(rule, used)| {
            rule.times.is_none_or(|times| *used < times) && applies(&rule.when)
        })?;
        self.used[found] += 1;
        Some(self.rules[found].acts.clone().into())
    }

    fn gets(&mut self, expected: &QuestionPattern) -> Result<(), String> {
        let text = &expected.text;
        let Some((process, told)) = self.received.get(self.looked_at) else {
            return Err(format!("expected {text}; nothing came that was not looked at before"));
        };
        let before = self.looked_at.checked_sub(1).map(|before| self.received[before].0);
        let same = before == Some(*process);
        self.looked_at += 1;
        let as_wanted = expected.same_process.is_none_or(|wanted| wanted == same);
        if expected.matches(told) && as_wanted {
            return Ok(());
        }
        Err(format!("expected {text}; it came, to the same process: {same}\n  {}", told.write()))
    }

    fn gets_questions(&mut self, count: usize) -> Result<(), String> {
        let news = &self.received[self.looked_at..];
        self.looked_at = self.received.len();
        if news.len() == count {
            return Ok(());
        }
        let shown: String =
            news.iter().take(20).map(|(_, told)| format!("\n  {}", told.write())).collect();
        Err(format!("expected {count} questions; {} came:{shown}", news.len()))
    }
}

impl World {
    /// A process is to be started.
    pub(super) fn start(
        &mut self,
        process: ProcessHandle,
        command: &ExecSettings,
        input: &Bytes,
    ) -> Result<(), String> {
        let name = &command.name;
        let plugin = self.plugins.iter().position(|plugin| plugin.name == *name);
        let plugin = plugin.ok_or_else(|| format!("a process of {name}, which is nobody here"))?;
        let (mode, input) = (command.mode, input.to_vec());
        let new = Process { plugin, mode, reads: false, killed: false, input };
        if self.processes.insert(process, new).is_some() {
            return Err("a process was started that is there".to_owned());
        }
        let state = &mut self.plugins[plugin];
        state.started += 1;
        let acts = state.acts(|when| *when == PluginEvent::Start);
        let acts = acts.unwrap_or_else(|| VecDeque::from([PluginAct::Starts]));
        self.plugin_acts(plugin, PluginTarget::Process(process), acts)
    }

    /// More is written to a process.
    pub(super) fn fed(&mut self, process: ProcessHandle, input: &Bytes) -> Result<(), String> {
        let known = self.processes.get_mut(&process);
        let known = known.filter(|known| known.mode == ExecMode::Worker && !known.killed);
        let known = known.ok_or("something was written to a process that does not read")?;
        known.input.extend_from_slice(input);
        self.process_reads(process)
    }

    /// A process is killed.
    pub(super) fn killed(&mut self, process: ProcessHandle) -> Result<(), String> {
        let known = self.processes.get_mut(&process).filter(|known| !known.killed);
        let known = known.ok_or("a process was killed that is not there")?;
        known.killed = true;
        let plugin = known.plugin;
        let state = &mut self.plugins[plugin];
        state.killed += 1;
        let acts = state.acts(|when| *when == PluginEvent::Kill);
        let acts = acts.unwrap_or_else(|| VecDeque::from([PluginAct::Dies(KILLED)]));
        self.plugin_acts(plugin, PluginTarget::Process(process), acts)
    }

    /// A process reads the lines that are whole.
    fn process_reads(&mut self, process: ProcessHandle) -> Result<(), String> {
        while let Some(known) = self.processes.get_mut(&process).filter(|known| known.reads)
            && let Some(end) = known.input.iter().position(|octet| *octet == b'\n')
        {
            let line: Vec<u8> = known.input.drain(..=end).collect();
            let plugin = known.plugin;
            let has_id = known.mode == ExecMode::Worker;
            let line = String::from_utf8(line).map_err(|_| "a question is not UTF-8")?;
            let told = Told::read(line.trim_end_matches('\n'))?;
            if told.id.is_some() != has_id {
                return Err(format!("an id is for who is kept running: {line}"));
            }
            let state = &mut self.plugins[plugin];
            let number = state.received.len();
            state.received.push((process, told.clone()));
            let fits = |when: &PluginEvent| match when {
                PluginEvent::Question(pattern) => pattern.matches(&told),
                PluginEvent::Start | PluginEvent::Kill => false,
            };
            let name = state.name.clone();
            let acts = state.acts(fits);
            let acts = acts.ok_or_else(|| format!("{name} has no rule for {}", told.write()))?;
            self.plugin_acts(plugin, PluginTarget::Question(number), acts)?;
        }
        Ok(())
    }

    /// A plugin does what its rule or a step says.
    pub(super) fn plugin_acts(
        &mut self,
        plugin: usize,
        target: PluginTarget,
        mut acts: VecDeque<PluginAct>,
    ) -> Result<(), String> {
        let (process, told) = match target {
            PluginTarget::Process(process) => (process, None),
            PluginTarget::Question(number) => {
                let (process, told) = &self.plugins[plugin].received[number];
                (*process, Some((number, told.clone())))
            }
        };
        while let Some(act) = acts.pop_front() {
            let id = told.as_ref().and_then(|(_, told)| told.id).map(|id| id.to_string());
            let named = |text: &str| text.replace("ID", id.as_deref().unwrap_or("ID"));
            match act {
                PluginAct::After(wait) => {
                    self.schedule(wait, Later::Plugin { plugin, target, acts });
                    return Ok(());
                }
                PluginAct::Silence => {}
                PluginAct::Hold => {
                    let number = told.as_ref().map(|(number, _)| *number);
                    let number = number.ok_or("only questions can be held")?;
                    self.plugins[plugin].held.push(number);
                }
                PluginAct::Starts => {
                    if let Some(known) = self.processes.get_mut(&process) {
                        known.reads = true;
                    }
                    self.process_reads(process)?;
                }
                PluginAct::Says(text) => {
                    let (_, told) = told.as_ref().ok_or("questions are what is answered")?;
                    self.writes(process, told.answer(&text).into());
                    let once = self.processes.get(&process).map(|known| known.mode);
                    if once == Some(ExecMode::Once) {
                        self.inputs.push_back(Input::Exited(process, ProcessExit::Code(0)));
                    }
                }
                PluginAct::Writes(text) => self.writes(process, (named(&text) + "\n").into()),
                PluginAct::Begins(text) => self.writes(process, named(&text).into()),
                PluginAct::Floods(octets) => self.writes(process, vec![b'x'; octets]),
                PluginAct::Exits(code) => {
                    self.inputs.push_back(Input::Exited(process, ProcessExit::Code(code)));
                }
                PluginAct::Dies(signal) => {
                    self.inputs.push_back(Input::Exited(process, ProcessExit::Signal(signal)));
                }
                PluginAct::Fails(why) => {
                    self.inputs.push_back(Input::Exited(process, ProcessExit::NotStarted(why)));
                }
            }
        }
        Ok(())
    }

    fn writes(&mut self, process: ProcessHandle, octets: Vec<u8>) {
        for piece in octets.chunks(PIECE) {
            self.inputs.push_back(Input::Wrote(process, Bytes::copy_from_slice(piece)));
        }
    }

    /// A step of a plugin.
    pub(super) fn plugin(&mut self, plugin: usize, step: &PluginStep) -> Result<(), String> {
        let state = &mut self.plugins[plugin];
        let so_many = |what: &str, found: usize, wanted: usize| {
            if found == wanted { Ok(()) } else { Err(format!("it {what} {found}")) }
        };
        match step {
            PluginStep::Gets(expected) => state.gets(expected),
            PluginStep::GetsQuestions(count) => state.gets_questions(*count),
            PluginStep::Answers(pattern, acts) => {
                let fits = |number: &usize| {
                    let (_, told) = &state.received[*number];
                    pattern.as_ref().is_none_or(|pattern| pattern.matches(told))
                };
                let place = state.held.iter().position(fits);
                let held = state.held.remove(place.ok_or("no such question is on hold")?);
                self.plugin_acts(plugin, PluginTarget::Question(held), acts.clone().into())?;
                self.pump()
            }
            PluginStep::Becomes(_) => Ok(()), // by the caller, who knows the lines of rules
            PluginStep::Do(act) => {
                let own = self.processes.iter().filter(|(_, one)| one.plugin == plugin);
                let own: Vec<ProcessHandle> = own.map(|(process, _)| *process).collect();
                if own.is_empty() {
                    return Err("it has no processes".to_owned());
                }
                for process in own {
                    let acts = VecDeque::from([act.clone()]);
                    self.plugin_acts(plugin, PluginTarget::Process(process), acts)?;
                }
                self.pump()
            }
            PluginStep::HasProcesses(count) => {
                let own = self.processes.values().filter(|one| one.plugin == plugin);
                so_many("has", own.count(), *count)
            }
            PluginStep::WasStarted(count) => so_many("was started", state.started, *count),
            PluginStep::WasKilled(count) => so_many("was killed", state.killed, *count),
        }
    }
}
