//! Finds where the running kernel keeps the fields of its structs, in its BTF.
//!
//! aya reads BTF for its own use and keeps what it found to itself, so this is a reader of the one thing we ask: the offset of
//! a member. Format: Documentation/bpf/btf.rst of the kernel.

use std::path::Path;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const TYPE_LEN: usize = 12;
const MOST_DIMENSIONS: usize = 8;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Why the kernel's BTF could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// File.
        path: String,
        /// What the read said.
        source: std::io::Error,
    },
    /// The data is not BTF of a version that is known.
    #[error("the kernel's BTF is malformed: {0}")]
    Malformed(&'static str),
}

/// A member of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset from the start of the struct, in bits.
    pub bit_offset: u32,
    /// Width in bits of a bitfield, 0 for any other member.
    pub bitfield_bits: u32,
}

struct Field {
    name: u32,
    type_id: u32,
    member: Member,
}

/// The head of a type, `struct btf_type`.
struct Type {
    name: u32,
    kind: u32,
    /// Number of what follows the head: members, parameters, values.
    count: usize,
    kind_flag: bool,
    /// For a typedef or modifier the type that it stands for.
    size_or_type: u32,
}

/// The structs of a kernel. Most types are never asked for: a type is read when it is.
pub struct Btf {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where each type begins in `types`. Ids begin with 1, for 0 is `void`.
    starts: Vec<usize>,
    /// Ids of the structs that have a name.
    structs: Vec<u32>,
}

impl Btf {
    /// Reads the BTF of the running kernel (`/sys/kernel/btf/vmlinux`, Linux 5.4 with `CONFIG_DEBUG_INFO_BTF`).
    ///
    /// # Errors
    /// The kernel has no BTF, or it is malformed.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new("/sys/kernel/btf/vmlinux"))
    }

    /// Reads BTF from a file.
    ///
    /// # Errors
    /// The file cannot be read, or is malformed.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&data)
    }

    /// Parses BTF in this machine's byte order.
    ///
    /// # Errors
    /// The data is malformed.
    pub fn parse(data: &[u8]) -> Result<Self, BtfError> {
        let truncated = BtfError::Malformed("truncated");
        if data.len() < HEADER_LEN {
            return Err(truncated);
        }
        if u16::from_ne_bytes([data[0], data[1]]) != MAGIC {
            return Err(BtfError::Malformed("wrong magic"));
        }
        let field = |at: usize| word(data, at).map(|value| value as usize);
        let start = field(4)?;
        let section = |offset: usize, len: usize| {
            let from = start.checked_add(offset)?;
            data.get(from..from.checked_add(len)?)
        };
        let types = section(field(8)?, field(12)?).ok_or(BtfError::Malformed("truncated types"))?;
        let strings = section(field(16)?, field(20)?).ok_or(BtfError::Malformed("truncated strings"))?;
        let mut btf = Self {
            types: types.to_vec(),
            strings: strings.to_vec(),
            starts: Vec::new(),
            structs: Vec::new(),
        };
        btf.index()?;
        Ok(btf)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        let (mut at, mut id) = (0, 1);
        while at < self.types.len() {
            let head = head(&self.types, at)?;
            self.starts.push(at);
            if head.kind == KIND_STRUCT && head.name != 0 {
                self.structs.push(id);
            }
            at += TYPE_LEN
                + match head.kind {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => head.count * 12,
                    KIND_ENUM | KIND_FUNC_PROTO => head.count * 8,
                    _ => 0,
                };
            id += 1;
        }
        if at > self.types.len() {
            return Err(BtfError::Malformed("truncated"));
        }
        Ok(())
    }

    /// A type and where what follows its head begins; `None` for `void` and ids that there are not.
    fn of_id(&self, id: u32) -> Option<(Type, usize)> {
        let at = *self.starts.get(usize::try_from(id.checked_sub(1)?).ok()?)?;
        Some((head(&self.types, at).ok()?, at + TYPE_LEN))
    }

    /// The members of a struct or union; none of any other type.
    fn fields(&self, id: u32) -> impl Iterator<Item = Field> {
        let found = self.of_id(id);
        let found = found.filter(|(head, _)| matches!(head.kind, KIND_STRUCT | KIND_UNION));
        found.into_iter().flat_map(move |(head, at)| {
            (0..head.count)
                .map_while(move |index| field(&self.types, at + index * TYPE_LEN, head.kind_flag).ok())
        })
    }

    /// The first struct of a name.
    fn structure(&self, name: &str) -> Option<u32> {
        let is_named = |id: &&u32| {
            let head = self.of_id(**id);
            head.is_some_and(|(head, _)| self.is(head.name, name.as_bytes()))
        };
        self.structs.iter().find(is_named).copied()
    }

    /// Finds a member by its path, such as `__sk_common.skc_cookie` of `sock`, through anonymous structs and unions.
    #[must_use]
    pub fn member(&self, structure: &str, path: &str) -> Option<Member> {
        self.walk(structure, path).map(|(_, member)| member)
    }

    /// Number of elements of a member that is an array; of one with several dimensions, all of them.
    #[must_use]
    pub fn length(&self, structure: &str, path: &str) -> Option<u32> {
        let (mut id, _) = self.walk(structure, path)?;
        let mut elements = None;
        // Malformed data could have an array of itself.
        for _ in 0..MOST_DIMENSIONS {
            match self.of_id(id) {
                Some((head, at)) if head.kind == KIND_ARRAY => {
                    let of_this = word(&self.types, at + 8).ok()?;
                    elements = Some(elements.unwrap_or(1_u32).checked_mul(of_this)?);
                    id = self.resolve(word(&self.types, at).ok()?);
                }
                _ => break,
            }
        }
        elements
    }

    /// The type of a member, and where it is.
    fn walk(&self, structure: &str, path: &str) -> Option<(u32, Member)> {
        let mut id = self.structure(structure)?;
        let mut base = 0;
        let mut found = None;
        for name in path.split('.') {
            let (type_id, member) = self.find(id, name.as_bytes())?;
            id = self.resolve(type_id);
            base += member.bit_offset;
            let bit_offset = base;
            found = Some((id, Member { bit_offset, ..member }));
        }
        found
    }

    fn find(&self, id: u32, name: &[u8]) -> Option<(u32, Member)> {
        let is_named = |field: &Field| field.name != 0 && self.is(field.name, name);
        if let Some(field) = self.fields(id).find(is_named) {
            return Some((field.type_id, field.member));
        }
        self.fields(id).filter(|field| field.name == 0).find_map(|field| {
            let (type_id, inner) = self.find(self.resolve(field.type_id), name)?;
            Some((
                type_id,
                Member {
                    bit_offset: field.member.bit_offset + inner.bit_offset,
                    ..inner
                },
            ))
        })
    }

    fn resolve(&self, mut id: u32) -> u32 {
        // A chain longer than the number of aliases would be a circle, which malformed data could have.
        for _ in 0..=self.starts.len() {
            match self.of_id(id) {
                Some((head, _)) if is_alias(head.kind) => id = head.size_or_type,
                _ => break,
            }
        }
        id
    }

    /// Whether the string at an offset is this one.
    fn is(&self, offset: u32, text: &[u8]) -> bool {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.strip_prefix(text)
            .is_some_and(|rest| matches!(rest.first(), None | Some(0)))
    }
}

/// Whether a type of this kind only stands for another.
fn is_alias(kind: u32) -> bool {
    matches!(
        kind,
        KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG
    )
}

fn head(types: &[u8], at: usize) -> Result<Type, BtfError> {
    let (name, info, size_or_type) = (word(types, at)?, word(types, at + 4)?, word(types, at + 8)?);
    Ok(Type {
        name,
        kind: info >> 24 & 0x1f,
        count: (info & 0xffff) as usize,
        kind_flag: info >> 31 == 1,
        size_or_type,
    })
}

fn word(data: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = data.get(at..at + 4).ok_or(BtfError::Malformed("truncated"))?;
    Ok(u32::from_ne_bytes(
        bytes.try_into().map_err(|_| BtfError::Malformed("truncated"))?,
    ))
}

fn field(types: &[u8], at: usize, kind_flag: bool) -> Result<Field, BtfError> {
    let (name, type_id, offset) = (word(types, at)?, word(types, at + 4)?, word(types, at + 8)?);
    let member = if kind_flag {
        Member {
            bit_offset: offset & 0x00ff_ffff,
            bitfield_bits: offset >> 24,
        }
    } else {
        Member {
            bit_offset: offset,
            bitfield_bits: 0,
        }
    };
    Ok(Field {
        name,
        type_id,
        member,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct outer { int a; union { int b; struct inner in; }; unsigned c:3; }`, `struct inner { int x; alias y; }`,
    /// `struct lists { int flat[12]; int nested[3][5]; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0inner\0a\0b\0in\0c\0x\0y\0alias\0lists\0flat\0nested\0";
        let name = |text: &str| {
            let needle = format!("\0{text}\0");
            let at = strings
                .windows(needle.len())
                .position(|part| part == needle.as_bytes())
                .unwrap();
            u32::try_from(at + 1).unwrap()
        };
        let info = |kind: u32, count: u32, flag: bool| kind << 24 | count | u32::from(flag) << 31;
        let types: Vec<u32> = [
            vec![name("int"), info(KIND_INT, 0, false), 4, 0x0100_0020],
            vec![
                name("inner"),
                info(KIND_STRUCT, 2, false),
                8,
                name("x"),
                1,
                0,
                name("y"),
                3,
                32,
            ],
            vec![name("alias"), info(KIND_TYPEDEF, 0, false), 1],
            vec![
                0,
                info(KIND_UNION, 2, false),
                8,
                name("b"),
                1,
                0,
                name("in"),
                2,
                0,
            ],
            [
                vec![name("outer"), info(KIND_STRUCT, 3, true), 16],
                vec![name("a"), 1, 0, 0, 4, 32, name("c"), 1, 3 << 24 | 96],
            ]
            .concat(),
            // Ids 6 to 8: of 12, of 5, and of 3 of those.
            vec![0, info(KIND_ARRAY, 0, false), 0, 1, 1, 12],
            vec![0, info(KIND_ARRAY, 0, false), 0, 1, 1, 5],
            vec![0, info(KIND_ARRAY, 0, false), 0, 7, 1, 3],
            [
                vec![name("lists"), info(KIND_STRUCT, 2, false), 108],
                vec![name("flat"), 6, 0, name("nested"), 8, 384],
            ]
            .concat(),
        ]
        .concat();
        let types: Vec<u8> = types.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let (types_len, strings_len) = (
            u32::try_from(types.len()).unwrap(),
            u32::try_from(strings.len()).unwrap(),
        );
        let mut data = MAGIC.to_ne_bytes().to_vec();
        data.extend([1, 0]);
        data.extend(
            [24_u32, 0, types_len, types_len, strings_len]
                .iter()
                .flat_map(|value| value.to_ne_bytes()),
        );
        data.extend(&types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_through_anonymous_unions_and_bitfields() {
        let btf = Btf::parse(&sample()).unwrap();
        let plain = |bit_offset| {
            Some(Member {
                bit_offset,
                bitfield_bits: 0,
            })
        };
        assert_eq!(btf.member("outer", "a"), plain(0));
        assert_eq!(btf.member("outer", "b"), plain(32));
        assert_eq!(btf.member("outer", "in.y"), plain(64));
        assert_eq!(
            btf.member("outer", "c"),
            Some(Member {
                bit_offset: 96,
                bitfield_bits: 3
            })
        );
        assert_eq!(btf.member("outer", "missing"), None);
        assert_eq!(btf.member("missing", "a"), None);
    }

    #[test]
    fn arrays_of_one_and_of_several_dimensions() {
        let btf = Btf::parse(&sample()).unwrap();
        assert_eq!(btf.length("lists", "flat"), Some(12));
        assert_eq!(btf.length("lists", "nested"), Some(15));
        assert_eq!(btf.length("outer", "a"), None);
        assert_eq!(btf.length("lists", "missing"), None);
    }

    proptest! {
        #[test]
        fn damaged_data_is_an_error_or_an_answer(at in 0_usize..sample().len(), byte: u8, len in 0_usize..400) {
            let mut data = sample();
            data[at] = byte;
            data.truncate(len.max(1));
            if let Ok(btf) = Btf::parse(&data) {
                let _ = (btf.member("outer", "in.y"), btf.length("lists", "nested"));
            }
        }
    }
}
