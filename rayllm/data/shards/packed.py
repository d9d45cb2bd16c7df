"""A packed directory: its index, its tokenizer, and a ``TokenStream`` for each domain of each split."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.data.shards.format import PACKED_JSON, PackedIndex
from rayllm.data.shards.stream import TokenStream
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import check_sha256


@dataclass(frozen=True)
class PackedData:
    """A packed directory: its URI, its index, and where remote shards are cached."""

    uri: str
    index: PackedIndex
    cache_dir: Path | None = None

    @classmethod
    def open(cls, uri: str, *, cache_dir: Path | None = None) -> "PackedData":
        """Read ``packed.json``; shards are opened when a stream first reads them.

        Args:
            uri: The packed directory.
            cache_dir: Where remote shards are kept; ``shard_cache.default_cache_dir()`` by default.

        Raises:
            ArtifactDamaged: If there is no ``packed.json`` or it cannot be read.
        """
        where = storage.join(uri, PACKED_JSON)
        try:
            return cls(uri, PackedIndex.model_validate_json(storage.read_bytes(where)), cache_dir)
        except FileNotFoundError as error:
            raise ArtifactDamaged("this is not packed data", where=uri, why=f"{PACKED_JSON} is missing") from error
        except ValidationError as error:
            why = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:2])
            raise ArtifactDamaged("the index of packed data cannot be read", where=where, why=why) from error

    @property
    def vocab_size(self) -> int:
        """One more than the highest id of the tokenizer."""
        return self.index.vocab_size

    @property
    def separator_id(self) -> int:
        """The id that stands before every document."""
        return self.index.separator_id

    @property
    def tokenizer_sha256(self) -> str:
        """The hash of the tokenizer that made the tokens."""
        return self.index.tokenizer_sha256

    def domains(self, split: str) -> list[str]:
        """Domains of a split, in the order of the run file; empty where there is no such split."""
        return list(self.index.splits.get(split, ()))

    def chat_domains(self, split: str) -> list[str]:
        """The domains of a split that hold conversations only: of each document, a part is to be learnt."""
        domains = self.index.splits.get(split, {})
        return [name for name, shards in domains.items() if all(shard.is_chat for shard in shards)]

    def pair_domains(self, split: str) -> list[str]:
        """The domains of a split that hold pairs of replies only."""
        domains = self.index.splits.get(split, {})
        return [name for name, shards in domains.items() if all(shard.is_pairs for shard in shards)]

    def stream(self, split: str, domain: str) -> TokenStream:
        """The tokens of one domain.

        Raises:
            DataError: If there is no such split or domain.
        """
        records = self.index.splits.get(split, {}).get(domain)
        if records is None:
            there = ", ".join(f"{s}/{d}" for s, domains in self.index.splits.items() for d in domains)
            raise DataError(f"there are no packed tokens of {split}/{domain}", where=self.uri, why=f"there are {there}")
        return TokenStream(self.uri, records, self.index.dtype, self.cache_dir)

    def codec(self) -> Codec:
        """The tokenizer that made the tokens, from the copy that lies beside them.

        Raises:
            ArtifactDamaged: If the copy is another tokenizer than the index names.
        """
        return Codec.load(self.uri, self.tokenizer_sha256)

    def check_tokenizer(self, sha256: str) -> None:
        """Refuse another tokenizer than the one the tokens were made with.

        Raises:
            ArtifactDamaged: Naming both hashes.
        """
        check_sha256(sha256, self.tokenizer_sha256, where=self.uri)
