//! Functions that leave by a jump into another image, such as from a program into the C library.
//!
//! The image that the dynamic linker took a function from is known if only one of the mapped images
//! exports the name. If several do, or if the function is chosen at program start (an ifunc), the
//! call is measured up to the jump.

use edgelat_guard::Line;
use edgelat_guard::protocol::{ImageId, MappedImage, PlanSite};
use edgelat_image::{CallEnds, Export, Image, Tails};

use super::resolve::{Context, Function, ResolveError, Resolved, ResolvedImage, functions_of, plan_site};
use super::target::{OpenImage, Target};

/// Maximum number of images searched for the functions that are jumped to.
const IMAGES: usize = 64;
/// Maximum number of images that one call passes through by jumps.
const ROUNDS: usize = 4;

/// A jump out of a function into another image.
#[derive(Debug)]
pub struct Leaving {
    /// Number of the function whose calls leave.
    pub function: usize,
    /// Name of the function that it jumps to.
    pub name: String,
    /// Image that holds the jump.
    pub image: ImageId,
    /// The jump, as an exit.
    pub jump: PlanSite,
}

impl Function {
    /// Adds the ends of calls that leave by jumps, of function number `index`. Returns the jumps
    /// into other images, which are still to be followed.
    pub fn end(&mut self, index: usize, open: &OpenImage, ends: CallEnds) -> Vec<Leaving> {
        self.until_tail_call |= !ends.open.is_empty();
        for exit in ends.exits.iter().chain(&ends.again).chain(&ends.open) {
            self.exit(open.id, plan_site(&open.file, exit, true));
        }
        // Their cost is no part of the time that probes add to a call that returns.
        self.unwound |= !ends.unwound.is_empty();
        self.sites.extend(ends.unwound.iter().map(|exit| plan_site(&open.file, exit, true)));
        let leaving = |(name, jump)| Leaving {
            function: index,
            name,
            image: open.id,
            jump: plan_site(&open.file, &jump, true),
        };
        ends.named.into_iter().map(leaving).collect()
    }

    /// Returns the function's sites in an image.
    pub fn sites_in(&self, image: ImageId) -> impl Iterator<Item = &PlanSite> {
        let own = if image == self.image { self.sites.as_slice() } else { &[] };
        own.iter().chain(self.elsewhere.iter().filter(move |(at, _)| *at == image).map(|(_, site)| site))
    }

    /// Adds an exit, in any image.
    pub fn exit(&mut self, image: ImageId, site: PlanSite) {
        self.steppings.exit_stepped |= site.stepped;
        match image == self.image {
            true => self.sites.push(site),
            false => self.elsewhere.push((image, site)),
        }
    }
}

/// Follows jumps into other images. A jump that cannot be followed becomes an exit itself.
///
/// # Errors
/// Fails if the guard refuses an image.
pub fn follow(
    line: &mut Line,
    target: &Target,
    mapped: &[MappedImage],
    mut opened: Vec<(u32, OpenImage)>,
    mut leaving: Vec<Leaving>,
    context: &mut Context<'_>,
    resolved: &mut Resolved,
) -> Result<(), ResolveError> {
    for _ in 0..ROUNDS {
        if leaving.is_empty() {
            break;
        }
        for image in mapped.iter().take(IMAGES) {
            if opened.iter().all(|(index, _)| *index != image.index) {
                opened.push((image.index, target.open_image(line, image)?));
            }
        }
        let mut names: Vec<String> = Vec::new();
        for leaving in &leaving {
            if !names.contains(&leaving.name) {
                names.push(leaving.name.clone());
            }
        }
        let exporters = exporters(&opened, &names);
        let mut next = Vec::new();
        for (index, open) in &opened {
            let here = |leaving: &Leaving| {
                exporters.iter().any(|(name, at, _)| *name == leaving.name && *at == Some(*index))
            };
            let (into, others) = leaving.into_iter().partition(here);
            leaving = others;
            next.extend(enter(open, into, &exporters, context, resolved)?);
        }
        leaving.drain(..).for_each(|leaving| stop_at(&leaving, resolved));
        leaving = next;
    }
    leaving.iter().for_each(|leaving| stop_at(leaving, resolved));
    Ok(())
}

/// Each name with the image that exports it, or no image if that is unclear, and the address there.
type Exporters = Vec<(String, Option<u32>, u64)>;

fn exporters(opened: &[(u32, OpenImage)], names: &[String]) -> Exporters {
    let mut exporters = Exporters::new();
    for (index, open) in opened {
        let Ok(image) = Image::open(&open.file) else { continue };
        for (name, export) in image.exports(names).unwrap_or_default() {
            let (at, address) = match export {
                Export::Function(address) => (Some(*index), address),
                Export::Unclear => (None, 0),
            };
            match exporters.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, known, _)) => *known = None,
                None => exporters.push((name, at, address)),
            }
        }
    }
    exporters
}

/// Follows jumps into one image; returns the jumps that leave it again.
fn enter(
    open: &OpenImage,
    jumps: Vec<Leaving>,
    exporters: &Exporters,
    context: &mut Context<'_>,
    resolved: &mut Resolved,
) -> Result<Vec<Leaving>, ResolveError> {
    if jumps.is_empty() {
        return Ok(Vec::new());
    }
    let image_error = |error| ResolveError::Image { path: open.path.clone(), error };
    let image = Image::open(&open.file).map_err(image_error)?;
    let table = functions_of(open, &image, context, false, false)?;
    let known = resolved.followers.iter().position(|(image, _)| *image == open.id);
    let followers = known.map(|at| resolved.followers.swap_remove(at).1).unwrap_or_default();
    let mut tails = Tails::new(&image, &table, followers);
    let mut on = Vec::new();
    for jump in jumps {
        let found = exporters.iter().find(|(name, ..)| *name == jump.name);
        let address = found.map_or(0, |(.., address)| *address);
        match tails.enter(address) {
            Some(ends) => {
                on.extend(resolved.functions[jump.function].end(jump.function, open, ends));
            }
            None => stop_at(&jump, resolved),
        }
    }
    resolved.followers.push((open.id, tails.followers()));
    if resolved.images.iter().all(|known| known.id != open.id) {
        resolved.images.push(ResolvedImage::of(open, &image));
    }
    Ok(on)
}

/// Makes a jump an exit: the call is measured up to it.
fn stop_at(leaving: &Leaving, resolved: &mut Resolved) {
    let function = &mut resolved.functions[leaving.function];
    function.until_tail_call = true;
    function.exit(leaving.image, leaving.jump);
}
