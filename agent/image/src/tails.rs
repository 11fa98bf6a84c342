//! Ends of calls whose functions leave by a jump.
//!
//! Compilers turn `return g(x)` into a jump: the frame is gone, the stack pointer is that of the
//! entry, and `g` returns to the caller. So a call lasts until `g` returns. Its ends are the
//! returns of `g`, and of all functions that `g` leaves to in this way: there the stack pointer is
//! that of the entry again, and no other live frame can have it. Other callers of `g` pass these
//! exits too; there is no frame under their stack pointer then, and the hit is idle.
//!
//! A jump leads to code of the same image, or through a word filled in by the dynamic linker (the
//! procedure linkage table, `jmp *name@GOTPCREL(%rip)`) to a named function in any image.
//!
//! A frame left by an exception or `longjmp` waits for the next call with the same stack pointer.
//! If the function that it would have jumped to is called from there first, the end of that call is
//! taken for the end of the abandoned call.
//!
//! An exception (in Rust, a panic) is visible if the function has a clean-up: compilers end it with
//! a call of `_Unwind_Resume`, which never returns. A frame without a clean-up is removed unseen.

use edgelat_sites::Site;
use edgelat_sites::decode::{Effect, Flow, Memory, Pointer};

use crate::code::ProbeSite;
use crate::elf::dynamic::Dynamic;
use crate::elf::relocations;
use crate::elf::symbols::{SymbolKind, SymbolTable};
use crate::functions::assembly::Text;
use crate::limits::TAIL_EXITS;
use crate::{
    Arch, Ends, Function, FunctionSites, FunctionTable, Image, ImageError, Language, ReadAt, Refusal,
    SiteKind,
};

/// System V ABI x86-64, table 4.9: `R_X86_64_GLOB_DAT`, `R_X86_64_JUMP_SLOT`.
const X86_64_SLOTS: [u64; 2] = [6, 7];
/// ELF for the Arm 64-bit Architecture, "Dynamic relocations": `R_AARCH64_GLOB_DAT`, `R_AARCH64_JUMP_SLOT`.
const AARCH64_SLOTS: [u64; 2] = [1025, 1026];
/// Instructions of the longest stub of a linkage table: aarch64 with a landing pad.
const STUB_STEPS: usize = 6;

/// Functions that nearly everything calls and that return after nanoseconds. The whole program
/// would pay for probes on their returns, which add next to nothing to a duration.
const LEFT_ALONE: [&str; 31] = [
    "free",
    "cfree",
    "malloc",
    "calloc",
    "realloc",
    "_ZdlPv",
    "_ZdaPv",
    "_ZdlPvm",
    "_ZdaPvm",
    "_Znwm",
    "_Znam",
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "memchr",
    "mempcpy",
    "strlen",
    "strnlen",
    "strcmp",
    "strncmp",
    "strchr",
    "strrchr",
    "strcpy",
    "strncpy",
    "strcat",
    "strcasecmp",
    "strncasecmp",
    "__errno_location",
    "__stack_chk_fail",
    "__tls_get_addr",
];

/// Function by which compiled code lets the unwinder continue with the caller (Itanium C++ ABI,
/// "Exception Handling", 1.5.2; `resume` of LLVM, which Rust uses as well).
const RESUME: &str = "_Unwind_Resume";

/// Ends of calls that left by jumps or by exceptions.
#[derive(Debug, Default)]
pub struct CallEnds {
    /// Exits by exception, as far as the function's own code shows them.
    pub unwound: Vec<ProbeSite>,
    /// Ends of these calls in this image.
    pub exits: Vec<ProbeSite>,
    /// Jumps to functions known by name, with the name.
    pub named: Vec<(String, ProbeSite)>,
    /// Jumps back to the function itself: the code after the jump is another call.
    pub again: Vec<ProbeSite>,
    /// Jumps to an unknown or unprobeable place: the calls are measured up to the jump.
    pub open: Vec<ProbeSite>,
}

impl CallEnds {
    /// Jumps that are, or may become, ends themselves.
    fn kept(&self) -> impl Iterator<Item = &ProbeSite> {
        self.open.iter().chain(&self.again).chain(self.named.iter().map(|(_, jump)| jump))
    }
}

/// Export of an image under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// A function, at an ELF virtual address.
    Function(u64),
    /// Several versions, or a function that is chosen when the program starts.
    Unclear,
}

/// ELF virtual addresses of exits that functions were followed to, one entry for each function.
pub type Followers = Vec<u64>;

/// Functions followed to one exit: it has a probe for each, which all calls that pass it pay for.
/// The guard accepts twice as many at one place, for functions that share their code.
const FOLLOWERS: usize = 8;

/// Follows the tail jumps of functions of one image.
#[derive(Debug)]
pub struct Tails<'i, S> {
    image: &'i Image<S>,
    table: &'i FunctionTable,
    links: Links,
    /// Exits of functions that were jumped to; `None` if the function cannot be probed.
    callees: Vec<(u64, Option<Vec<ProbeSite>>)>,
    followers: Followers,
    /// Called addresses, sorted, and true if the unwinder continues from there.
    resumes: Vec<(u64, bool)>,
}

/// Destination of a jump.
enum Lead {
    /// To code.
    Code(u64),
    /// Through a word of memory.
    Slot(u64),
    Unknown,
}

impl<'i, S: ReadAt> Tails<'i, S> {
    /// Follows jumps of `image`; `followers` has the exits that other functions are followed to.
    ///
    /// If the dynamic linker's words are unreadable, jumps to other images have no destination.
    pub fn new(image: &'i Image<S>, table: &'i FunctionTable, followers: Followers) -> Self {
        let links = Links::read(image).unwrap_or_default();
        Self { image, table, links, callees: Vec::new(), followers, resumes: Vec::new() }
    }

    /// Returns the functions followed to, for the next search of this image.
    pub fn followers(self) -> Followers {
        self.followers
    }

    /// Returns the sites of a function and its other ends; its own exits leave it for good.
    ///
    /// # Errors
    /// The reason why it cannot be probed soundly.
    pub fn sites(&mut self, function: &Function) -> Result<(FunctionSites, CallEnds), Refusal> {
        let (image, table) = (self.image, self.table);
        let mut ends = None;
        let mut unwinding = Vec::new();
        let mut sites =
            image.sites_and(table, function, Ends::AtExits, &mut |arch, main, cold, around| {
                let mut follow = |jumps: &[Site]| {
                    let shared = |jump: &Site| jump.maybe || table.is_shared(jump.address, function.start);
                    let placed = jumps.iter().map(|jump| Site { maybe: shared(jump), ..*jump });
                    let placed: Vec<ProbeSite> =
                        placed.filter_map(|jump| image.place_one(jump).ok()).collect();
                    let mut followed: Vec<u64> = placed.iter().map(|jump| jump.site.address).collect();
                    let found = ends.insert(self.follow(placed, Some(function.start)));
                    followed.retain(|address| found.kept().all(|jump| jump.site.address != *address));
                    followed
                };
                edgelat_sites::find_whole(arch, main, cold, around, &mut follow, &mut unwinding)
            })?;
        let is_jump = |exit: &ProbeSite| exit.site.kind == SiteKind::TailJump && !exit.site.goroutine;
        let (jumps, exits) = sites.exits.into_iter().partition(is_jump);
        sites.exits = exits;
        // A pack has the sites without a search.
        let mut ends = ends.unwrap_or_else(|| self.follow(jumps, Some(function.start)));
        for (site, called) in unwinding {
            if self.resumes(called)
                && let Ok(site) = image.place_one(site)
            {
                ends.unwound.push(site);
            }
        }
        Ok((sites, ends))
    }

    /// Returns true if the unwinder continues from the code at an address.
    fn resumes(&mut self, address: u64) -> bool {
        let at = match self.resumes.binary_search_by_key(&address, |known| known.0) {
            Ok(known) => return self.resumes.get(known).is_some_and(|known| known.1),
            Err(at) => at,
        };
        let through = || self.slot_of_stub(address).is_some_and(|slot| self.links.resumes.contains(&slot));
        let resumes = self.table.is_called(address, RESUME) || !self.links.resumes.is_empty() && through();
        self.resumes.insert(at, (address, resumes));
        resumes
    }

    /// Returns the sites and ends without counting the function as a follower.
    ///
    /// # Errors
    /// The reason why it cannot be probed soundly.
    pub fn look(&mut self, function: &Function) -> Result<(FunctionSites, CallEnds), Refusal> {
        let found = self.sites(function);
        self.followers.clear();
        found
    }

    /// Follows calls into the function of this image at `address`; `None` if it cannot be probed.
    pub fn enter(&mut self, address: u64) -> Option<CallEnds> {
        let exits = self.join(address)?;
        Some(self.follow(exits, None))
    }

    /// Follows these exits to the ends of their calls, for a function at `start`, if known.
    fn follow(&mut self, mut waiting: Vec<ProbeSite>, start: Option<u64>) -> CallEnds {
        let mut ends = CallEnds::default();
        let mut followed = Vec::new();
        while let Some(jump) = waiting.pop() {
            if jump.site.kind != SiteKind::TailJump {
                ends.exits.push(jump);
                continue;
            }
            match self.lead(&jump) {
                Lead::Code(to) if Some(to) == start => ends.again.push(jump),
                Lead::Code(to) if followed.contains(&to) => {}
                Lead::Code(to) => match self.join(to) {
                    Some(exits) if ends.exits.len() + waiting.len() + exits.len() <= TAIL_EXITS => {
                        followed.push(to);
                        waiting.extend(exits);
                    }
                    _ => ends.open.push(jump),
                },
                Lead::Slot(slot) => match self.links.name(self.image, slot) {
                    Some(name) if !LEFT_ALONE.contains(&name.as_str()) => ends.named.push((name, jump)),
                    _ => ends.open.push(jump),
                },
                Lead::Unknown => ends.open.push(jump),
            }
        }
        ends
    }

    /// Returns the exits of the function at an address and counts one more follower.
    fn join(&mut self, address: u64) -> Option<Vec<ProbeSite>> {
        let exits = self.callee(address)?;
        let at = |exit: &ProbeSite| exit.site.address;
        let followers = |exit| self.followers.iter().filter(|known| **known == at(exit)).count();
        if exits.iter().any(|exit| followers(exit) >= FOLLOWERS) {
            return None;
        }
        self.followers.extend(exits.iter().map(at));
        Some(exits)
    }

    /// Returns the exits of the function at an address, if the ends of its calls are visible.
    fn callee(&mut self, address: u64) -> Option<Vec<ProbeSite>> {
        if let Some((_, known)) = self.callees.iter().find(|(at, _)| *at == address) {
            return known.clone();
        }
        let exits = self.exits_at(address);
        self.callees.push((address, exits.clone()));
        exits
    }

    fn exits_at(&self, address: u64) -> Option<Vec<ProbeSite>> {
        let function = self.image.starting_at(self.table, address, address).ok()?;
        let mut names = std::iter::once(&function.linkage_name).chain(&function.aliases);
        if names.any(|name| LEFT_ALONE.contains(&name.as_str())) || function.language != Language::Native {
            return None;
        }
        self.image.exits_of_callee(self.table, &function).ok()
    }

    /// Returns the destination of a jump, also through the stub of a linkage table.
    fn lead(&self, jump: &ProbeSite) -> Lead {
        let Some(step) = self.image.step(jump.site.address) else { return Lead::Unknown };
        match step.flow {
            Flow::Jump(to) | Flow::Branch { target: to, .. } => match self.slot_of_stub(to) {
                Some(slot) => Lead::Slot(slot),
                None => Lead::Code(to),
            },
            Flow::Indirect(pointer) => match word(pointer) {
                Some(slot) => Lead::Slot(slot),
                None => Lead::Unknown,
            },
            _ => Lead::Unknown,
        }
    }

    /// Returns the word that the code at an address jumps through, if it does nothing else.
    fn slot_of_stub(&self, address: u64) -> Option<u64> {
        // Known register contents: an address, and the word loaded from an address.
        let mut addresses = [None; 32];
        let mut words = [None; 32];
        let mut at = address;
        for _ in 0..STUB_STEPS {
            let step = self.image.step(at)?;
            match (step.flow, step.effect) {
                (Flow::Indirect(Pointer::Register(register) | Pointer::Untracked(register)), _) => {
                    return *words.get(usize::from(register))?;
                }
                (Flow::Indirect(pointer), _) => return word(pointer),
                (Flow::Next, Effect::Set { to, value }) => *addresses.get_mut(usize::from(to))? = Some(value),
                (Flow::Next, Effect::Move { to, from, add }) => {
                    let moved: Option<u64> = *addresses.get(usize::from(from))?;
                    *addresses.get_mut(usize::from(to))? =
                        moved.map(|address| address.wrapping_add_signed(add.into()));
                }
                (
                    Flow::Next,
                    Effect::Load {
                        to,
                        memory: Memory { base: Some(base), indexed: false, displacement },
                        ..
                    },
                ) => {
                    let base: Option<u64> = *addresses.get(usize::from(base))?;
                    *words.get_mut(usize::from(to))? = base.map(|base| base.wrapping_add(displacement));
                }
                (Flow::Next, Effect::Nothing) => {}
                _ => return None,
            }
            at = step.end();
        }
        None
    }
}

/// Returns the word at a fixed address that a pointer is read from.
fn word(pointer: Pointer) -> Option<u64> {
    match pointer {
        Pointer::Memory(memory) | Pointer::UntrackedMemory(memory) => {
            (memory.base.is_none() && !memory.indexed).then_some(memory.displacement)
        }
        Pointer::Register(_) | Pointer::Untracked(_) => None,
    }
}

/// Words that the dynamic linker fills with the addresses of functions.
#[derive(Debug, Default)]
struct Links {
    /// Address of the word, number of the symbol. Sorting costs more code than it saves time.
    slots: Vec<(u64, u32)>,
    /// Slots of [`RESUME`].
    resumes: Vec<u64>,
    symbols: Option<SymbolTable>,
}

impl Links {
    fn read<S: ReadAt>(image: &Image<S>) -> Result<Self, ImageError> {
        let Some(dynamic) = Dynamic::read(&image.elf)? else { return Ok(Self::default()) };
        let kinds = match image.arch() {
            Arch::X86_64 => X86_64_SLOTS,
            Arch::Aarch64 => AARCH64_SLOTS,
        };
        let mut slots = Vec::new();
        for table in [dynamic.linkage(), dynamic.relocations()].into_iter().flatten() {
            relocations::for_each(&image.elf, table, |relocation| {
                if kinds.contains(&relocation.kind) {
                    slots.push((relocation.at, relocation.symbol));
                }
            })?;
        }
        let mut links = Self { slots, resumes: Vec::new(), symbols: SymbolTable::dynamic(&image.elf)? };
        let named = |(slot, number): &(u64, u32)| {
            links.symbol(image, *number).is_some_and(|name| name == RESUME).then_some(*slot)
        };
        links.resumes = links.slots.iter().filter_map(named).collect();
        Ok(links)
    }

    /// Returns the name of the function whose address a word holds.
    fn name<S: ReadAt>(&self, image: &Image<S>, slot: u64) -> Option<String> {
        let (_, number) = self.slots.iter().find(|(at, _)| *at == slot)?;
        self.symbol(image, *number)
    }

    fn symbol<S: ReadAt>(&self, image: &Image<S>, number: u32) -> Option<String> {
        let symbols = self.symbols.as_ref()?;
        let symbol = symbols.symbol(&image.elf.source, u64::from(number))?;
        Some(String::from_utf8_lossy(symbols.name(symbol)?).into_owned())
    }
}

impl<S: ReadAt> Image<S> {
    /// Returns the exports of this image under each of `names`, if it exports anything.
    ///
    /// # Errors
    /// An [`ImageError`] if the dynamic symbol table cannot be read.
    pub fn exports(&self, names: &[String]) -> Result<Vec<(String, Export)>, ImageError> {
        let mut found: Vec<(String, Export)> = Vec::new();
        let Some(table) = SymbolTable::dynamic(&self.elf)? else { return Ok(found) };
        table.for_each(&self.elf.source, |_, symbol| {
            let Some(name) = table.name(symbol).filter(|_| symbol.defined) else { return };
            let Some(name) = names.iter().find(|wanted| wanted.as_bytes() == name) else { return };
            let function = match symbol.kind {
                SymbolKind::Function => Export::Function(symbol.value),
                _ => Export::Unclear,
            };
            match found.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) if *known == function => {}
                Some((_, known)) => *known = Export::Unclear,
                None => found.push((name.clone(), function)),
            }
        })?;
        Ok(found)
    }
}
