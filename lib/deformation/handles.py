"""Learnable handles: a few points move, and the mesh follows while it keeps its curvature.

A handle is a weighted mean of vertices, H = A V; the rows of A sum to one. H̃ says where the handles shall go. The
vertices V of a template V̄ with Laplacian L then solve

    V = argmin ½‖L V − L V̄‖² + ½‖A V − H̃‖²,    (LᵀL + AᵀA) V = LᵀL V̄ + Aᵀ H̃.

Because (LᵀL + AᵀA) V̄ = LᵀL V̄ + Aᵀ A V̄, this is V = V̄ + D (H̃ − A V̄) with W = LᵀL + AᵀA and D = W⁻¹ Aᵀ (V, K).
Source: Kokkinos & Kokkinos, "Learning monocular 3D reconstruction of articulated categories from motion",
CVPR 2021, equations 1-5 and supplement C; after Sorkine et al., "Laplacian surface editing", 2004.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from lib.checks import check_same_device, check_tensor, require, whole_number
from lib.geometry import geodesics, laplacian, mesh

# Up to so many vertices (LᵀL)⁺ is kept as one dense matrix (36 MB in float32), which suits a GPU; above, as sparse
# factors.
DENSE_UP_TO = 3000


class HandleLayer(nn.Module):
    """Handle offsets (B, K, 3) → vertices (B, V, 3). The matrix A is learned, the template is fixed.

    template: gives the layer its dtype and device. Its size should be about 1, because the first A depends on the
        distances in units of the template (see `initial_logits`).
    num_handles: K.
    laplacian: "cotangent" or "uniform" (vertex minus the mean of its neighbours).
    method: how to solve with W. Only AᵀA changes while A is learned. "woodbury" makes use of this, and solves a
        K × K system in each step; "cholesky" builds and factorises the dense (V, V) matrix W in each step.

    The one parameter is `logits` (K, V), with A = softmax(logits) over the vertices.

    Raises ValueError for an unknown laplacian or method, or more handles than vertices.
    """

    def __init__(
        self, template: mesh.Mesh, num_handles: int, laplacian: str = "cotangent", method: str = "woodbury"
    ) -> None:
        super().__init__()
        self.logits = nn.Parameter(initial_logits(template, num_handles))
        self.energy = LaplacianEnergy(template, laplacian, method)
        self.energy.check_handles(num_handles)

    @property
    def offset_shape(self) -> tuple[int, int]:
        """The shape (K, 3) of the offsets of one picture, for a network that predicts them."""
        return len(self.logits), 3

    def matrix(self) -> Float[Tensor, "K V"]:
        """The matrix A: a row of weights for each handle, which are positive and sum to one."""
        return self.logits.softmax(dim=1)

    def handles(self) -> Float[Tensor, "K 3"]:
        """The places of the handles in the template, A V̄."""
        return self.matrix() @ self.energy.template

    def forward(self, offsets: Float[Tensor, "B K 3"]) -> Float[Tensor, "B V 3"]:
        """Move the handles by `offsets` from their places in the template; return vertices of the layer's dtype."""
        check_tensor("offsets", offsets, f"B {len(self.logits)} 3")
        check_same_device(offsets=offsets, logits=self.logits)
        # Solve in full precision: the digits of a network's mixed precision are too few.
        with torch.autocast(offsets.device.type, enabled=False):
            A = self.matrix()
            # H̃ depends on A as well; autograd adds this part of the gradient.
            return deform(A, A @ self.energy.template + offsets.to(A.dtype), self.energy)

    @torch.no_grad()
    def fold(self) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V K"]]:
        """Fold the present layer into constants (C, D) for `apply_folded`: V = C + D H̃, H̃ the handles' places."""
        A = self.matrix()
        D = self.energy.system(A).influence
        return self.energy.template - D @ (A @ self.energy.template), D


def apply_folded(
    C: Float[Tensor, "V 3"], D: Float[Tensor, "V K"], targets: Float[Tensor, "B K 3"]
) -> Float[Tensor, "B V 3"]:
    """Compute the vertices C + D H̃ for handles at `targets`, by one matrix product for the whole batch."""
    # If its input is contiguous, `linear` makes one product; otherwise a product for each element of the batch.
    return C + linear(targets.mT.contiguous(), D).mT


def initial_logits(template: mesh.Mesh, num_handles: int) -> Float[Tensor, "K V"]:
    """The logits 1 / max(d_ki, mean edge length), d_ki the geodesic distance from vertex i to the centre of handle k.

    The centres are farthest points. Softmax turns the logits into A_ki ∝ exp(1 / max(d_ki, mean edge length)). This
    is equation 4 of the paper with its indices corrected, and finite at the centre itself.

    Raises ValueError for fewer than one handle or more than vertices.
    """
    verts, faces = template.verts.detach(), template.faces
    num_handles = whole_number("num_handles", num_handles, None)
    if not 1 <= num_handles <= len(verts):
        raise ValueError(f"num_handles must be 1 … {len(verts)}, the number of vertices, got {num_handles}")
    centers = geodesics.farthest_points(verts, faces, num_handles)
    distances = geodesics.geodesic_distances(verts, faces, centers)
    start, end = mesh.edges(faces).unbind(1)
    return 1 / distances.clamp_min((verts[start] - verts[end]).norm(dim=1).mean())


# ------------------------------------------------------------------------------- the layer's own gradient


def deform(A: Float[Tensor, "K V"], targets: Float[Tensor, "B K 3"], energy: LaplacianEnergy) -> Float[Tensor, "B V 3"]:
    """Find the vertices whose handles A V come near `targets` while L V stays near L V̄ of the template.

    Differentiable in A and targets, by the explicit formulas of `_Deformation`, but not in the template.
    """
    count = energy.template.shape[0]
    check_tensor("A", A, f"K {count}")
    check_tensor("targets", targets, f"B {len(A)} 3")
    check_same_device(A=A, targets=targets, template=energy.template)
    return _Deformation.apply(A, targets, energy)


class _Deformation(torch.autograd.Function):
    """V = V̄ + D (H̃ − A V̄), and its gradient without differentiating through a solver.

    With G = ∂ℒ/∂V of the loss ℒ and G_b = W⁻¹ G, figure 8 of the paper reads

        ∂ℒ/∂H̃ = A G_b,    ∂ℒ/∂A = H̃ G_bᵀ + A G_W + A G_Wᵀ,    G_W = −G_b Vᵀ.

    Two rearrangements make the cost independent of the batch: A G_b = Dᵀ G needs no solve at all, and
    H̃ G_bᵀ + A G_Wᵀ = (H̃ − A V) Gᵀ W⁻¹ can be summed over the batch before the one solve, so that there
    are K right-hand sides instead of 3 B.
    """

    @staticmethod
    def forward(ctx, A: Tensor, targets: Tensor, energy: LaplacianEnergy) -> Tensor:
        ctx.system = energy.system(A)
        verts = apply_folded(energy.template, ctx.system.influence, targets - A @ energy.template)
        ctx.save_for_backward(A, targets, verts)
        return verts

    @staticmethod
    @once_differentiable
    def backward(ctx, G: Tensor):
        A, targets, verts = ctx.saved_tensors
        grad_targets = linear(G.mT.contiguous(), ctx.system.influence.mT).mT
        grad_A = None
        if ctx.needs_input_grad[0]:
            residual = targets - A @ verts
            pulled = torch.einsum("bvx,bkx->vk", G, residual)
            grad_A = ctx.system.solve(pulled).mT - torch.einsum("bkx,bvx->kv", grad_targets, verts)
        return grad_A, grad_targets, None


class LaplacianEnergy(nn.Module):
    """The energy ½‖L V − L V̄‖² of a fixed template V̄, prepared for solving with LᵀL + AᵀA for any A.

    Both Laplacians have the form L = diag(r) S with S symmetric: r = 1 for the cotangent Laplacian, and 1 over the
    number of neighbours for the uniform one. So LᵀL = S diag(r²) S. Sparse factors of S, with one vertex of each
    piece of the mesh held, therefore apply the pseudo-inverse (LᵀL)⁺ in two solves. Each solve has the condition
    number of S, not its square.

    Raises ValueError for an unknown laplacian or method, or an invalid mesh.
    """

    def __init__(self, template: mesh.Mesh, laplacian: str = "cotangent", method: str = "woodbury") -> None:
        super().__init__()
        if method not in ("woodbury", "cholesky"):
            raise ValueError(f'method={method!r} is unknown; use "woodbury" or "cholesky"')
        self.method = method
        self.pseudo_inverse = _PseudoInverse(template, laplacian)
        dense = None
        if method == "cholesky":
            dense = self.pseudo_inverse.gram().toarray()
        elif len(template.verts) <= DENSE_UP_TO:
            dense = self.pseudo_inverse.matrix()
        pieces = torch.from_numpy(self.pseudo_inverse.pieces).to(template.verts)
        self.register_buffer("template", template.verts.detach().clone(), persistent=False)
        self.register_buffer("pieces", pieces, persistent=False)
        self.register_buffer("dense", None if dense is None else torch.from_numpy(dense).to(pieces), persistent=False)

    def system(self, A: Float[Tensor, "K V"]) -> _Cholesky | _Woodbury:
        """Prepare W = LᵀL + AᵀA for solving."""
        self.check_handles(len(A))
        if self.method == "cholesky":
            return _Cholesky(A, self.dense)
        return _Woodbury(A, self.pieces, self._apply_inverse)

    def check_handles(self, count: int) -> None:
        """Raise ValueError for fewer handles than the mesh has pieces: then a piece may move and nothing minds."""
        pieces = self.pieces.shape[1]
        if count < pieces:
            reason = f"num_handles must be at least {pieces}, as the mesh has {pieces} pieces that no face connects"
            raise ValueError(f"{reason} (a vertex without faces is one), got {count}; add handles, or drop pieces")

    def _apply_inverse(self, right: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        if self.dense is not None:
            return self.dense @ right
        return torch.from_numpy(self.pseudo_inverse.solve(right.double().cpu().numpy())).to(right)


def _cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor; on CUDA PyTorch's own would wait to see whether there is one."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    require(failed == 0, "A leaves the system of the handles singular; give finite handles that touch every piece")
    return factor


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    solution, failed = torch.linalg.solve_ex(matrix, right)
    require(failed == 0, "A leaves the system of the handles singular; give finite handles that touch every piece")
    return solution


class _Cholesky:
    """Solve with W as a dense matrix: O(V² K + V³) a step."""

    def __init__(self, A: Tensor, gram: Float[Tensor, "V V"]) -> None:
        self.factor = _cholesky(gram + A.mT @ A)
        self.influence = self.solve(A.mT)

    def solve(self, right: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        return torch.cholesky_solve(right, self.factor)


class _Woodbury:
    """Solve with W = LᵀL + AᵀA by J = (LᵀL)⁺ and a system with one unknown per handle.

    The functions that are constant on each of the m pieces of the mesh, Z (V, m), satisfy LᵀL Z = 0. To solve
    W X = Y write U = A X. Then LᵀL X = Y − Aᵀ U, so X = J (Y − Aᵀ U) + Z c, where c are the constants that J removes.
    Multiply X by A; and note that J may only be applied where Zᵀ (Y − Aᵀ U) = 0. With Q = A J Aᵀ this gives

        (1 + Q) U − (A Z) c = A J Y,    (A Z)ᵀ U = Zᵀ Y.
    """

    def __init__(self, A: Tensor, pieces: Float[Tensor, "V m"], apply_inverse: Callable[[Tensor], Tensor]) -> None:
        self.pieces = pieces
        self.apply_inverse = apply_inverse
        self.spread = apply_inverse(A.mT)
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        self.factor = _cholesky(eye + A @ self.spread)
        self.touch = A @ pieces
        self.touch_solved = torch.cholesky_solve(self.touch, self.factor)
        self.schur = self.touch.mT @ self.touch_solved
        # Solve for Y = Aᵀ. There 1 − U is small, and is what we need: compute it directly.
        shift = _solve(self.schur, self.touch_solved.mT)
        rest = torch.cholesky_solve(eye - self.touch @ shift, self.factor)
        self.influence = self.spread @ rest + pieces @ shift

    def solve(self, right: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        solved = self.apply_inverse(right)
        moved = torch.cholesky_solve(self.spread.mT @ right, self.factor)
        shift = _solve(self.schur, self.pieces.mT @ right - self.touch.mT @ moved)
        moved = moved + self.touch_solved @ shift
        return solved - self.spread @ moved + self.pieces @ shift


class _PseudoInverse:
    """The pseudo-inverse (LᵀL)⁺ in float64 on the CPU, by sparse factors of the symmetric matrix behind L."""

    def __init__(self, template: mesh.Mesh, kind: str) -> None:
        from scipy.sparse.csgraph import connected_components

        verts, faces = template.verts.detach().double().cpu(), template.faces.cpu()
        if kind == "cotangent":
            symmetric = laplacian.cotangent_laplacian(verts, faces)
            self.row_scale = np.ones((len(verts), 1))
        elif kind == "uniform":
            symmetric = laplacian.uniform_laplacian(faces, len(verts), normalized=False)
            self.row_scale = 1 / laplacian.to_scipy(symmetric).diagonal()[:, None].clip(1)
        else:
            raise ValueError(f'laplacian={kind!r} is unknown; use "cotangent" or "uniform"')
        self.symmetric = laplacian.to_scipy(symmetric)
        count, piece = connected_components(self.symmetric, directed=False)
        self.pieces = (piece[:, None] == np.arange(count)).astype(float)
        self.free = np.ones(len(verts), dtype=bool)
        self.free[np.unique(piece, return_index=True)[1]] = False
        held = self.symmetric[self.free][:, self.free].tocsc()
        self.factors = laplacian.Factorization(held, verts.numpy()[self.free])

    def gram(self):
        """Return LᵀL as a sparse (V, V) matrix."""
        scaled = self.symmetric * self.row_scale
        return scaled.T @ scaled

    def solve(self, right: Float[np.ndarray, "V C"]) -> Float[np.ndarray, "V C"]:
        """Solve S diag(r²) S X = `right` without its constants; X is without constants, too."""
        squared = self.row_scale**2
        first = self._solve_symmetric(self._without_constants(right, np.ones_like(squared)))
        # S z = b determines z up to constants: choose them so that S x = z / r² has a solution.
        second = self._solve_symmetric(self._without_constants(first, 1 / squared) / squared)
        return self._without_constants(second, np.ones_like(squared))

    def matrix(self) -> Float[np.ndarray, "V V"]:
        """Return (LᵀL)⁺, computed by blocks of columns: one solve for all would take many times the memory."""
        count = len(self.row_scale)
        inverse = np.empty((count, count))
        for start in range(0, count, 256):
            width = min(256, count - start)
            inverse[:, start : start + width] = self.solve(np.eye(count, width, -start))
        return inverse

    def _without_constants(self, values: np.ndarray, weights: Float[np.ndarray, "V 1"]) -> np.ndarray:
        """Shift each piece so that its weighted mean is zero."""
        means = (self.pieces.T @ (weights * values)) / (self.pieces.T @ weights)
        return values - self.pieces @ means

    def _solve_symmetric(self, right: np.ndarray) -> np.ndarray:
        solution = np.zeros_like(right)
        solution[self.free] = self.factors.solve(right[self.free])
        return solution
