import { createContext, useContext, useEffect, useId, useRef, useState, type FormEvent, type ReactNode } from 'react';
import type { ConflictError, ProductPatch, ProductRow } from '@storefront/client';
import { useOptimisticProducts } from '@storefront/client/react';
import { formatPrice } from './format';

const TOKEN_KEY = 'storefront-shop-token';

/** The token of the owner, for this tab alone. */
export const readToken = (): string | undefined => sessionStorage.getItem(TOKEN_KEY) ?? undefined;

export function keepToken(token: string | undefined): void {
  if (token) sessionStorage.setItem(TOKEN_KEY, token);
  else sessionStorage.removeItem(TOKEN_KEY);
}

/** The user of a token, to keep what is stored for different users apart. Undefined if it is no JWT. */
export function readUserId(token: string): string | undefined {
  try {
    const part = token.split('.')[1] ?? '';
    const claims: unknown = JSON.parse(atob(part.replaceAll('-', '+').replaceAll('_', '/')));
    return typeof claims === 'object' && claims !== null && 'sub' in claims ? String(claims.sub) : undefined;
  } catch {
    return undefined;
  }
}

/** Whether products can be edited. */
export const StaffContext = createContext(false);

export function TokenButton({ isStaff, onToken }: { isStaff: boolean; onToken: (token: string | undefined) => void }): ReactNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const [text, setText] = useState('');
  const [problem, setProblem] = useState('');
  const id = useId();
  if (isStaff) {
    return (
      <button type="button" className="text-button" onClick={() => onToken(undefined)}>
        Leave staff mode
      </button>
    );
  }
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    const token = text.trim().replace(/^Bearer\s+/i, '');
    if (!readUserId(token)) return setProblem('This is not a token. Copy all of it, three parts with dots between.');
    dialog.current?.close();
    onToken(token);
  };
  return (
    <>
      <button type="button" className="text-button" onClick={() => dialog.current?.showModal()}>
        Staff
      </button>
      <dialog ref={dialog} aria-labelledby={`${id}-title`}>
        <form onSubmit={submit}>
          <h2 id={`${id}-title`}>Staff mode</h2>
          <p>
            Paste a token of the store’s owner. <code>make run</code> prints one; <code>storefront token</code> makes another. It stays in this tab.
          </p>
          <label htmlFor={`${id}-token`}>Token</label>
          <textarea
            id={`${id}-token`} rows={4} required spellCheck={false} value={text}
            aria-describedby={`${id}-problem`} aria-invalid={problem !== ''} onChange={({ target }) => setText(target.value)}
          />
          <p id={`${id}-problem`} className="problem" role="alert">
            {problem}
          </p>
          <div className="buttons">
            <button type="submit">Begin</button>
            <button type="button" className="text-button" onClick={() => dialog.current?.close()}>
              Cancel
            </button>
          </div>
        </form>
      </dialog>
    </>
  );
}

/** In staff mode: a button that becomes a form for title and price. */
export function EditButton({ product }: { product: ProductRow }): ReactNode {
  const isStaff = useContext(StaffContext);
  // The product as it was when the form was opened: conflicts are decided by it.
  const [base, setBase] = useState<ProductRow | null>(null);
  if (!isStaff) return null;
  if (base) return <EditForm base={base} onClose={() => setBase(null)} />;
  return (
    <button type="button" className="edit" onClick={() => setBase(product)} aria-label={`Edit ${product.title}`}>
      Edit
    </button>
  );
}

function EditForm({ base, onClose }: { base: ProductRow; onClose: () => void }): ReactNode {
  const { updateProduct } = useOptimisticProducts({ onConflict: 'merge' });
  const [title, setTitle] = useState(base.title);
  const [price, setPrice] = useState(base.price);
  const field = useRef<HTMLInputElement>(null);
  const id = useId();
  useEffect(() => field.current?.select(), []);
  const save = (event: FormEvent): void => {
    event.preventDefault();
    const patch: ProductPatch = {};
    if (title.trim() !== base.title) patch.title = title.trim();
    if (Number(price) !== Number(base.price)) patch.price = price;
    if (Object.keys(patch).length) updateProduct({ id: base.id, patch, base });
    onClose();
  };
  return (
    <form className="edit-form" aria-label={`Edit ${base.title}`} onSubmit={save} onKeyDown={({ key }) => key === 'Escape' && onClose()}>
      <label htmlFor={`${id}-title`}>Title</label>
      <input ref={field} id={`${id}-title`} name="title" required maxLength={255} value={title} onChange={({ target }) => setTitle(target.value)} />
      <label htmlFor={`${id}-price`}>Price ({base.currency})</label>
      <input
        id={`${id}-price`} name="price" required inputMode="decimal" pattern="[0-9]+([.][0-9]+)?" title="A number such as 9.50"
        value={price} onChange={({ target }) => setPrice(target.value)}
      />
      <div className="buttons">
        <button type="submit">Save</button>
        <button type="button" className="text-button" onClick={onClose}>
          Cancel
        </button>
      </div>
    </form>
  );
}

/** What the user and another one have made of the same fields, and the choice between them. */
export function Conflict({ conflict, onClose }: { conflict: ConflictError; onClose: () => void }): ReactNode {
  const { updateProduct } = useOptimisticProducts({ onConflict: 'merge' });
  const { theirs } = conflict;
  const mine = conflict.mine as ProductPatch;
  if (!theirs) {
    return (
      <div className="conflict" role="alert">
        <p>{conflict.base?.title ?? 'The product'} was deleted while you edited it.</p>
        <button type="button" onClick={onClose}>
          Close
        </button>
      </div>
    );
  }
  const rows = [
    { name: 'Title', mine: mine.title, theirs: theirs.title },
    { name: 'Price', mine: mine.price && formatPrice(mine.price, theirs.currency), theirs: formatPrice(theirs.price, theirs.currency) },
  ].filter((row) => row.mine);
  const overwrite = (): void => {
    updateProduct({ id: theirs.id, patch: mine, base: theirs });
    onClose();
  };
  return (
    <div className="conflict" role="alert">
      <p>
        <strong>{theirs.title}</strong> was changed by another user while you edited it.
      </p>
      <dl>
        {rows.map((row) => (
          <div key={row.name}>
            <dt>{row.name}</dt>
            <dd>theirs: {row.theirs}</dd>
            <dd>yours: {row.mine}</dd>
          </div>
        ))}
      </dl>
      <div className="buttons">
        <button type="button" onClick={overwrite}>
          Write yours
        </button>
        <button type="button" className="text-button" onClick={onClose}>
          Keep theirs
        </button>
      </div>
    </div>
  );
}
